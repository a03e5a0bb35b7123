#include "fs/mount/unasked.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/mount/memory.h"
#include "fs/mount/rules.h"
#include "prefetch/quiet.h"
#include "prefetch/roots.h"

#define CHANGED_MAX 32u	 /* names that are looked at in one go */
#define ENTRIES_MAX 256u /* of a listing */

/* A directory on the way that is being walked. */
struct frame {
	struct frame *up;
	uint64_t parent;
	uint64_t directory;	 /* 0: what the name in `parent` leads to */
	struct listing *listing; /* referenced; NULL: not yet */
	uint32_t at;		 /* in it */
	uint8_t tries;
	char name[NAME_BYTES_MAX + 1];
};

struct walk {
	unsigned when; /* RULES_ON_MOUNT or RULES_ON_CREATE */
	uint64_t root; /* its number */
	struct frame *top; /* NULL: none */
	char below[ROOT_BELOW_BYTES + 1]; /* from `below + below_at` on it leads to where the walk begins */
	size_t below_at;
	uint64_t bytes, bytes_max; /* wished for; where it ends */
};

struct unasked {
	struct quiet quiet; /* under p->lock; all else is the thread's */
	struct roots roots;
	uint64_t serial;    /* of the policies that these are of */
	struct walk mounted, created;
	bool walking;	    /* under p->lock */
	uint64_t who;
};

enum step {
	STEP_ON,    /* goes on */
	STEP_ASKED, /* with one wish more */
	STEP_WAIT,  /* for what was asked for */
};

/* ---- wishes ---- */

static void ask(struct prefetch *p, const struct intent *intent)
{
	pthread_mutex_lock(&p->lock);
	scheduler_add(&p->scheduler, intent, WISH_POLICY, p->unasked->who);
	pthread_mutex_unlock(&p->lock);
}

static unsigned outstanding(struct prefetch *p, unsigned when)
{
	const struct scheduler *s = &p->scheduler;
	unsigned count = 0;

	pthread_mutex_lock(&p->lock);
	for (unsigned i = 0; i < SCHEDULER_WISHES_MAX; i++)
		count += s->wishes[i].order && s->wishes[i].intent.unasked == when;
	for (unsigned i = 0; i < PREFETCH_UNITS_MAX; i++)
		count += p->units[i].state != UNIT_FREE && p->units[i].wish.intent.unasked == when;
	pthread_mutex_unlock(&p->lock);
	return count;
}

static struct intent named(uint64_t directory, const char *name, size_t length, unsigned unasked)
{
	struct intent intent = {
		.type = INTENT_FILE,
		.directory = directory,
		.priority = PRIORITY_LOW,
		.unasked = (uint8_t)unasked,
		.name_length = (uint8_t)length,
	};

	memcpy(intent.name, name, length);
	return intent;
}

/* What is wanted of such a file, whose `intent` gets length and priority: false: nothing. */
static bool wanted(const struct rules_attributes *a, unsigned when, struct intent *intent)
{
	if (!(rules_when(a) & when) || rules_amount(a) == RULES_AMOUNT_OFF || !rules_reaches(a, false))
		return false;
	intent->length = rules_on(a, when);
	if (a->lines[RULES_PRIORITY] > 0 || when == RULES_ON_CREATE)
		intent->priority = rules_priority(a);
	return true;
}

bool unasked_may(struct mount *m, const struct wish *wish, const struct inode *inode)
{
	struct rules_attributes a;

	if (wish->intent.type != INTENT_RANGE)
		return true;
	(void)rules_of(m, inode, &a);
	return rules_on(&a, wish->intent.unasked & (UNASKED_NAME - 1)) > 0 && rules_reaches(&a, false);
}

/* ---- walks ---- */

static struct frame *push(struct walk *w, uint64_t parent, const char *name, size_t length)
{
	struct frame *frame = calloc(1, sizeof(*frame));

	if (!frame)
		return NULL; /* what is there is not walked */
	frame->up = w->top;
	frame->parent = parent;
	memcpy(frame->name, name, length);
	w->top = frame;
	return frame;
}

static void pop(struct prefetch *p, struct walk *w)
{
	struct frame *frame = w->top;

	w->top = frame->up;
	pthread_mutex_lock(&p->m->lock);
	listing_unref(frame->listing);
	pthread_mutex_unlock(&p->m->lock);
	free(frame);
}

static void walk_end(struct prefetch *p, struct walk *w)
{
	while (w->top)
		pop(p, w);
}

static void walk_begin(struct prefetch *p, struct walk *w, uint64_t directory, const char *below,
		       size_t length)
{
	struct frame *frame = push(w, 0, "", 0);
	struct cache_counters cache;

	if (!frame)
		return;
	cache_counters(p->m->cache, &cache);
	w->bytes_max = cache.bytes_max - cache.bytes_max / UNASKED_CACHE_SHARE;
	frame->directory = directory;
	memcpy(w->below, below, length);
	w->below[length] = '\0';
	w->below_at = 0;
}

/* Asks for what the top needs, a few times. */
static enum step need(struct prefetch *p, struct walk *w, const struct intent *intent)
{
	bool connected;

	/* It may be on its way, and while the origin is away nothing comes. */
	pthread_mutex_lock(&p->m->lock);
	connected = holder_remaining(p->m->holder, mount_now()).ns > 0;
	pthread_mutex_unlock(&p->m->lock);
	if (!connected || (w->top->tries > 0 && outstanding(p, w->when) > 0))
		return STEP_WAIT;
	if (w->top->tries++ >= UNASKED_TRIES) {
		if (w->when == RULES_ON_CREATE && intent->type == INTENT_LIST) {
			/* Its lease may be gone, and with it what others tell. */
			pthread_mutex_lock(&p->lock);
			quiet_again(&p->unasked->quiet, mount_now(), w->top->directory,
				    (struct slice){ NULL, 0 });
			pthread_mutex_unlock(&p->lock);
		}
		pop(p, w);
		return STEP_ON;
	}
	ask(p, intent);
	return STEP_ASKED;
}

/* Where the name of the top leads to. */
static enum step resolve(struct prefetch *p, struct walk *w)
{
	struct frame *top = w->top;
	struct intent intent = named(top->parent, top->name, strlen(top->name), w->when);
	bool last = w->below[w->below_at] == '\0', known, want = false;
	struct inode *parent, *child = NULL;
	struct rules_attributes a;
	struct mount *m = p->m;
	uint32_t type = 0;

	pthread_mutex_lock(&m->lock);
	parent = inode_by_nodeid(m, top->parent);
	known = !parent || inode_name_find(m, parent, slice_of(top->name), mount_now(), &child);
	if (child) {
		type = child->type;
		top->directory = S_ISDIR(type) ? child->nodeid : 0;
	}
	if (child && S_ISREG(type) && last) {
		(void)rules_of_name(m, parent, slice_of(top->name), false, &a);
		want = wanted(&a, w->when, &intent);
	}
	pthread_mutex_unlock(&m->lock);
	if (!known)
		return need(p, w, &intent);
	if (top->directory) {
		top->tries = 0;
		return STEP_ON;
	}
	pop(p, w);
	if (!want)
		return STEP_ON;
	ask(p, &intent);
	return STEP_ASKED;
}

/* The next part of the path to where the walk begins. */
static enum step descend(struct walk *w)
{
	const char *part = w->below + w->below_at;
	size_t length = strcspn(part, "/");

	w->below_at += length + (part[length] == '/');
	w->top->at = UINT32_MAX; /* nothing else in it */
	(void)push(w, w->top->directory, part, length);
	return STEP_ON;
}

static enum step list(struct prefetch *p, struct walk *w)
{
	struct intent intent = { .type = INTENT_LIST, .priority = PRIORITY_LOW };
	struct frame *top = w->top;
	struct mount *m = p->m;
	struct inode *directory;
	uint64_t instance;

	pthread_mutex_lock(&m->lock);
	directory = inode_by_nodeid(m, top->directory);
	instance = directory ? inode_lease(m, directory, mount_now(), NULL) : 0;
	if (instance && directory->live->listing && directory->live->listing->instance == instance)
		top->listing = listing_ref(directory->live->listing);
	pthread_mutex_unlock(&m->lock);
	if (top->listing)
		return STEP_ON;
	if (!directory) {
		pop(p, w);
		return STEP_ON;
	}
	intent.inode = top->directory;
	intent.unasked = (uint8_t)w->when;
	return need(p, w, &intent);
}

/* Whether the subdirectory is walked. Under the mount's lock. */
static bool walks_into(struct mount *m, const struct walk *w, struct inode *directory, struct slice name,
		       const struct listing_entry *e)
{
	struct attributes known;
	struct inode *child = NULL;
	struct rules_attributes a;
	uint64_t instance;

	(void)rules_of_name(m, directory, name, true, &a);
	if (rules_amount(&a) == RULES_AMOUNT_OFF || !rules_reaches(&a, true) ||
	    !rules_lead(m, directory, name, w->when))
		return false;
	if (w->when == RULES_ON_MOUNT)
		return true;
	/* What is listed here is not new: its own changes are told. */
	(void)listing_attributes(m, directory, w->top->listing, e, mount_now(), &known, &child);
	instance = child ? inode_lease(m, child, mount_now(), NULL) : 0;
	return !instance || !child->live->listing || child->live->listing->instance != instance;
}

/* The bytes that come to the cache for it, as far as that is known. Under the mount's lock. */
static uint64_t bytes_of(struct mount *m, const struct frame *frame, const struct listing_entry *e,
			 const struct intent *intent)
{
	const struct inode *directory = inode_by_nodeid(m, frame->directory);
	struct attributes known;
	struct inode *child = NULL;
	const struct attributes *attributes = NULL;
	uint64_t size;

	if (directory)
		attributes = listing_attributes(m, directory, frame->listing, e, mount_now(), &known,
						&child);
	size = attributes ? attributes->size : 0;

	return size < intent->length ? size : intent->length;
}

/* The next of the entries that is something to do. False: none was found yet. Under the mount's lock. */
static bool next_entry(struct mount *m, struct walk *w, struct listing_entry *e, struct intent *ret_intent)
{
	struct frame *top = w->top;
	struct inode *directory = inode_by_nodeid(m, top->directory);
	const struct listing *listing = top->listing;
	struct rules_attributes a;

	for (unsigned i = 0; directory && top->at < listing->count && i < ENTRIES_MAX; i++) {
		struct slice name;

		*e = listing_entry(listing, top->at++);
		name = (struct slice){ (const uint8_t *)listing->names + e->name_at, e->name_length };
		if (slice_equal(name, slice_of(".")) || slice_equal(name, slice_of("..")))
			continue;
		*ret_intent = named(top->directory, listing->names + e->name_at, e->name_length, w->when);
		if (S_ISDIR(e->type) && walks_into(m, w, directory, name, e))
			return true;
		if (!S_ISREG(e->type))
			continue;
		(void)rules_of_name(m, directory, name, false, &a);
		/* Of which only attributes are wanted, the listing brought them. */
		if (wanted(&a, w->when, ret_intent) && ret_intent->length > 0)
			return true;
	}
	if (!directory)
		top->at = UINT32_MAX;
	return false;
}

static enum step entries(struct prefetch *p, struct walk *w)
{
	struct frame *top = w->top;
	struct listing_entry e;
	struct mount *m = p->m;
	struct intent intent;
	bool some;

	pthread_mutex_lock(&m->lock);
	some = next_entry(m, w, &e, &intent);
	if (some && S_ISREG(e.type))
		w->bytes += bytes_of(m, top, &e, &intent);
	pthread_mutex_unlock(&m->lock);
	if (!some) {
		if (top->at >= top->listing->count)
			pop(p, w);
		return STEP_ON;
	}
	if (S_ISDIR(e.type)) {
		(void)push(w, top->directory, intent.name, intent.name_length);
		return STEP_ON;
	}
	if (w->bytes > w->bytes_max) {
		mount_log("info", "%s: prefetch=%s ends before the cache is full of it; what is left is "
			  "fetched when it is read", m->options->mountpoint,
			  w->when == RULES_ON_MOUNT ? "on-mount" : "on-create");
		walk_end(p, w);
		return STEP_ON;
	}
	ask(p, &intent);
	return STEP_ASKED;
}

static enum step step(struct prefetch *p, struct walk *w)
{
	struct frame *top = w->top;

	if (top->at == UINT32_MAX) {
		pop(p, w);
		return STEP_ON;
	}
	if (!top->directory)
		return resolve(p, w);
	if (w->below[w->below_at])
		return descend(w);
	return top->listing ? entries(p, w) : list(p, w);
}

/* Goes on for a while. True: it did. */
static bool walk(struct prefetch *p, struct walk *w)
{
	unsigned count = w->top ? outstanding(p, w->when) : 0;
	bool did = false;

	for (unsigned i = 0; i < UNASKED_MAX && w->top && count < UNASKED_MAX; i++) {
		enum step what = step(p, w);

		if (what == STEP_WAIT)
			break;
		count += what == STEP_ASKED;
		did = true;
	}
	return did;
}

/* ---- where they begin ---- */

static void found(void *context, struct inode *directory, struct slice below, uint64_t stamp)
{
	roots_name(context, directory->nodeid, below, stamp);
}

static void look_at_policies(struct prefetch *p)
{
	struct unasked *u = p->unasked;
	struct mount *m = p->m;
	unsigned whens;

	pthread_mutex_lock(&m->lock);
	whens = rules_when_any(m);
	u->serial = rules_serial(m);
	roots_begin(&u->roots);
	rules_each_on_mount(m, found, &u->roots);
	roots_end(&u->roots);
	pthread_mutex_unlock(&m->lock);
	if (!roots_stands(&u->roots, u->mounted.root))
		walk_end(p, &u->mounted);
	if (!(whens & RULES_ON_CREATE))
		walk_end(p, &u->created);
	if (!u->mounted.top)
		u->mounted.bytes = 0;
}

/* A name that others changed, or made. */
static void changed(struct prefetch *p, const struct quiet_item *item)
{
	const struct slice name = { (const uint8_t *)item->name, item->name_length };
	struct intent intent = named(item->directory, item->name, item->name_length,
				     RULES_ON_CREATE | UNASKED_NAME);
	struct inode *directory, *child = NULL;
	struct rules_attributes a;
	struct mount *m = p->m;
	bool wants = false;
	uint64_t walks = 0;

	pthread_mutex_lock(&m->lock);
	directory = inode_by_nodeid(m, item->directory);
	if (directory && item->name_length == 0) {
		walks = rules_lead(m, directory, name, RULES_ON_CREATE) ? directory->nodeid : 0;
	} else if (directory) {
		(void)inode_name_find(m, directory, name, mount_now(), &child);
		(void)rules_of_name(m, directory, name, false, &a);
		wants = wanted(&a, RULES_ON_CREATE, &intent);
		if (child && S_ISDIR(child->type))
			walks = child->nodeid;
		else if (!child || !S_ISREG(child->type))
			wants = wants || rules_lead(m, directory, name, RULES_ON_CREATE);
	}
	pthread_mutex_unlock(&m->lock);
	if (walks && item->name_length == 0) {
		p->unasked->created.bytes = 0;
		walk_begin(p, &p->unasked->created, walks, "", 0);
	} else if (walks) {
		pthread_mutex_lock(&p->lock);
		quiet_changed(&p->unasked->quiet, mount_now(), walks, (struct slice){ NULL, 0 });
		pthread_mutex_unlock(&p->lock);
	} else if (wants) {
		ask(p, &intent);
	}
}

static bool look_at_changes(struct prefetch *p)
{
	struct unasked *u = p->unasked;
	struct quiet_item item;
	bool did = false, more = true;

	for (unsigned i = 0; i < CHANGED_MAX && more; i++) {
		pthread_mutex_lock(&p->lock);
		more = quiet_take(&u->quiet, mount_now(), u->created.top != NULL, &item);
		pthread_mutex_unlock(&p->lock);
		if (more)
			changed(p, &item);
		did |= more;
	}
	return did;
}

bool unasked_step(struct prefetch *p)
{
	struct unasked *u = p->unasked;
	const struct root *root;
	bool did = false;

	if (rules_serial(p->m) != u->serial)
		look_at_policies(p);
	if (memory_is_short(p->m))
		return false;
	did = look_at_changes(p);
	root = u->mounted.top ? NULL : roots_next(&u->roots);
	if (root) {
		u->mounted.root = root->number;
		walk_begin(p, &u->mounted, root->directory, root->below, root->below_length);
		did = true;
	}
	did |= walk(p, &u->mounted);
	did |= walk(p, &u->created);
	pthread_mutex_lock(&p->lock);
	u->walking = u->mounted.top || u->created.top;
	pthread_mutex_unlock(&p->lock);
	return did;
}

bool unasked_waits(const struct prefetch *p)
{
	return p->unasked->walking || p->unasked->quiet.waiting > 0;
}

/* ---- what it hears of ---- */

void prefetch_recalled(struct mount *m, const struct inode *inode, const struct holder_action *action)
{
	const struct name_entry *name = inode_name(inode);
	struct prefetch *p = m->prefetch;
	struct instant now = mount_now();
	struct quiet *q;

	if (!p || !(rules_when_any(m) & RULES_ON_CREATE))
		return;
	q = &p->unasked->quiet;
	pthread_mutex_lock(&p->lock);
	if (S_ISDIR(inode->type) && action->scope == RECALL_ALL)
		quiet_changed(q, now, inode->nodeid, (struct slice){ NULL, 0 });
	for (uint32_t i = 0; S_ISDIR(inode->type) && i < action->name_count; i++)
		quiet_changed(q, now, inode->nodeid,
			      (struct slice){ action->names[i], action->name_length[i] });
	if (S_ISREG(inode->type) && name)
		quiet_changed(q, now, name->directory->nodeid,
			      (struct slice){ (const uint8_t *)name->name, name->length });
	if (p->sleeping)
		pthread_cond_signal(&p->wake);
	pthread_mutex_unlock(&p->lock);
}

void prefetch_policies(struct mount *m)
{
	struct prefetch *p = m->prefetch;

	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	p->policies = true;
	if (p->sleeping)
		pthread_cond_signal(&p->wake);
	pthread_mutex_unlock(&p->lock);
}

void unasked_ended(struct prefetch *p, const struct prefetch_unit *unit)
{
	const struct intent *intent = &unit->wish.intent;
	struct quiet *q = &p->unasked->quiet;

	if (!(intent->unasked & RULES_ON_CREATE) || intent->type != INTENT_FILE)
		return;
	if (!unit->arrived || !unit->child)
		quiet_again(q, unit->ended_at, intent->directory,
			    (struct slice){ (const uint8_t *)intent->name, intent->name_length });
	else if (S_ISDIR(unit->child_type) && intent->unasked & UNASKED_NAME)
		quiet_changed(q, unit->ended_at, unit->child, (struct slice){ NULL, 0 });
}

/* ---- life ---- */

int unasked_create(struct prefetch *p)
{
	struct unasked *u = calloc(1, sizeof(*u));

	if (!u)
		return -ENOMEM;
	u->mounted.when = RULES_ON_MOUNT;
	u->created.when = RULES_ON_CREATE;
	u->serial = UINT64_MAX;
	u->who = askers_user(geteuid(), getegid());
	p->unasked = u;
	return 0;
}

void unasked_finish(struct prefetch *p)
{
	walk_end(p, &p->unasked->mounted);
	walk_end(p, &p->unasked->created);
}

void unasked_destroy(struct prefetch *p)
{
	free(p->unasked);
	p->unasked = NULL;
}
