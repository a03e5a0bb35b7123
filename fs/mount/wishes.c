/* From wishes to requests: see prefetch.h. All of it runs on its thread. */
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "fs/mount/memory.h"
#include "fs/mount/ops.h"
#include "fs/mount/prefetch_private.h"
#include "fs/mount/read.h"
#include "fs/mount/rules.h"
#include "fs/mount/session.h"
#include "fs/mount/unasked.h"

#define SCAN_MAX 512u		 /* wishes, or entries of a listing, that are looked at in one go */
#define NAME_UNIT (32u << 10)	 /* what a name with its bytes is counted as */
#define LIST_UNIT (8u << 10)	 /* what a listing is */

static struct prefetch_unit *unit_take(struct prefetch *p, const struct wish *wish)
{
	for (unsigned i = 0; i < PREFETCH_UNITS_MAX; i++) {
		if (p->units[i].state == UNIT_FREE) {
			p->units[i] = (struct prefetch_unit){ .state = UNIT_SENT, .wish = *wish };
			return &p->units[i];
		}
	}
	return NULL;
}

static struct fetched_source source_of(struct prefetch *p, const struct wish *wish)
{
	return (struct fetched_source){
		.class = wish->class,
		.predictor = wish->class == WISH_GUESS ? wish->intent.predictor : 0,
		.uid = wish->class == WISH_ASKED ? askers_credential(&p->askers, wish->who).uid : 0,
	};
}

/* Counts it as sent, before it is: its end may come first. False: it cannot be. */
static struct prefetch_unit *unit_begin(struct prefetch *p, const struct wish *wish, uint64_t bytes,
					const struct ledger_item *item)
{
	struct prefetch_unit *unit;
	struct fetched_source source;

	pthread_mutex_lock(&p->ledger_lock);
	pthread_mutex_lock(&p->lock);
	unit = unit_take(p, wish);
	if (unit) {
		unit->bytes = bytes;
		unit->sent_at = mount_now();
		scheduler_sent(&p->scheduler, bytes);
		p->sent++;
		if (item) {
			unit->nodeid = item->inode;
			unit->offset = item->offset;
			unit->length = item->length;
			if (wish->class == WISH_GUESS)
				ledger_sent(p->ledger, item);
			source = source_of(p, wish);
			fetched_sent(p->fetched, item->inode, &source, unit->sent_at, item->offset,
				     item->length);
		}
	}
	pthread_mutex_unlock(&p->lock);
	pthread_mutex_unlock(&p->ledger_lock);
	return unit;
}

/* ---- from wishes to requests ---- */

enum progress {
	PROGRESS_OVER,	/* nothing is left of the wish */
	PROGRESS_SENT,	/* something was sent; the wish may have more */
	PROGRESS_AGAIN, /* nothing was sent, and the wish may have more */
	PROGRESS_LATER, /* the same, but not yet */
	PROGRESS_FULL,	/* nothing can be sent now */
};

static struct ledger_item item_of(const struct wish *wish, uint64_t nodeid, uint64_t offset,
				  uint64_t length)
{
	return (struct ledger_item){
		.predictor = wish->intent.predictor,
		.scope = intent_scope(&wish->intent),
		.inode = nodeid,
		.offset = offset,
		.length = length,
		.distance = wish->intent.distance,
	};
}

/* With a use; NULL: it is not known any more. */
static struct inode *use(struct mount *m, uint64_t nodeid)
{
	struct inode *inode;

	pthread_mutex_lock(&m->lock);
	inode = inode_by_nodeid(m, nodeid);
	if (inode)
		inode_use(m, inode);
	pthread_mutex_unlock(&m->lock);
	return inode;
}

static void unuse(struct mount *m, struct inode *inode)
{
	pthread_mutex_lock(&m->lock);
	inode_unuse(m, inode);
	pthread_mutex_unlock(&m->lock);
}

/* The first gap in [*start, end) that nobody fetches, up to where a multiple of BULK_BYTES_MAX is; it is
   moved to there. False: there is none. Without the lock. */
static bool gap(struct mount *m, struct inode *inode, uint64_t *start, uint64_t end,
		uint64_t *ret_size)
{
	struct cache_file *file = read_cache_file(m, inode);
	uint64_t to, gap_start, gap_end;
	struct change change;
	bool may;

	while (file && *start < end) {
		pthread_mutex_lock(&m->lock);
		may = inode_lease(m, inode, mount_now(), &change) != 0 && !inode->live->no_ahead;
		*start = read_fetched_to(inode, *start);
		pthread_mutex_unlock(&m->lock);
		to = (*start / BULK_BYTES_MAX + 1) * BULK_BYTES_MAX;
		if (to > end)
			to = end;
		if (!may || *start >= to)
			return false;
		if (!cache_file_gap(file, change, *start, to, &gap_start, &gap_end)) {
			*start = to;
		} else if (gap_start > *start) {
			*start = gap_start;
		} else {
			*ret_size = gap_end - *start;
			return true;
		}
	}
	return false;
}

/*
 * As many of `*size` bytes, of it or of `name` in it, as its bandwidth lets be fetched now. False: none can
 * be, and the wish waits.
 */
static bool bandwidth(struct prefetch *p, struct wish *wish, const struct inode *inode, struct slice name,
		      uint64_t *size)
{
	struct mount *m = p->m;
	uint64_t rate = RULES_ALL, key = 0;

	pthread_mutex_lock(&m->lock);
	if (rules_set(m, RULES_BANDWIDTH, RULES_BANDWIDTH))
		rate = rules_bandwidth(m, inode, name, &key);
	pthread_mutex_unlock(&m->lock);
	if (rate == RULES_ALL)
		return true;
	*size = buckets_take(&p->buckets, mount_now(), key, rate, *size, &wish->not_before);
	return *size > 0;
}

/* Bytes of a file, from [offset + position of the wish) on. */
static enum progress range(struct prefetch *p, struct wish *wish, struct inode *inode)
{
	struct mount *m = p->m;
	struct credential credential = askers_credential(&p->askers, wish->who);
	uint64_t start = wish->intent.offset + wish->position, end, size = 0;
	const struct attributes *attributes;
	struct attributes heard;
	struct prefetch_unit *unit;
	struct ledger_item item;
	bool known;

	end = wish->intent.length > UINT64_MAX - wish->intent.offset ?
		      UINT64_MAX :
		      wish->intent.offset + wish->intent.length;
	pthread_mutex_lock(&m->lock);
	attributes = inode_attributes(m, inode, mount_now(), &heard);
	known = S_ISREG(inode->type) && attributes && inode_lease(m, inode, mount_now(), NULL);
	if (known && attributes->size < end)
		end = attributes->size;
	pthread_mutex_unlock(&m->lock);
	if (!known || !gap(m, inode, &start, end, &size))
		return PROGRESS_OVER;
	if (!bandwidth(p, wish, inode, (struct slice){ NULL, 0 }, &size))
		return PROGRESS_LATER;
	item = item_of(wish, inode->nodeid, start, size);
	unit = unit_begin(p, wish, size, &item);
	if (!unit)
		return PROGRESS_FULL;
	if (!read_fetch_for(m, inode, &credential, start, size, unit)) {
		prefetch_ended(m, unit, false, NULL);
		return PROGRESS_OVER;
	}
	wish->position = start + size - wish->intent.offset;
	return start + size < end ? PROGRESS_SENT : PROGRESS_OVER;
}

/* A listing that is under way already. */
static bool list_comes(struct prefetch *p, uint64_t nodeid)
{
	bool comes = false;

	pthread_mutex_lock(&p->lock);
	for (unsigned i = 0; i < PREFETCH_UNITS_MAX && !comes; i++)
		comes = p->units[i].state == UNIT_SENT && p->units[i].nodeid == nodeid &&
			p->units[i].offset == LEDGER_LISTING;
	pthread_mutex_unlock(&p->lock);
	return comes;
}

/* Its listing; `resume`: the wish needs it, and comes back. */
static enum progress list(struct prefetch *p, struct wish *wish, struct inode *directory, bool resume)
{
	struct mount *m = p->m;
	struct credential credential = askers_credential(&p->askers, wish->who);
	struct prefetch_unit *unit;
	struct ledger_item item;
	uint64_t instance;
	bool full, here;

	pthread_mutex_lock(&m->lock);
	instance = inode_lease(m, directory, mount_now(), NULL);
	here = instance && directory->live->listing && directory->live->listing->instance == instance;
	if (here)
		prefetch_listed(m, directory, directory->live->listing, &credential);
	full = m->inodes->count > PREFETCH_INODES_MAX;
	pthread_mutex_unlock(&m->lock);
	if (here || full || !S_ISDIR(directory->type))
		return PROGRESS_OVER;
	if (!resume && wish->class == WISH_GUESS && list_comes(p, directory->nodeid))
		return PROGRESS_OVER;
	item = item_of(wish, directory->nodeid, LEDGER_LISTING, LIST_UNIT);
	unit = unit_begin(p, wish, LIST_UNIT, &item);
	if (!unit)
		return PROGRESS_FULL;
	unit->resume = resume;
	if (!directory_fetch(m, directory, &credential, unit))
		prefetch_ended(m, unit, false, NULL);
	return PROGRESS_OVER;
}

/* A name that is not known: with it come the bytes of a small file. */
static enum progress look_up(struct prefetch *p, struct wish *wish, struct inode *directory,
			     const char *name)
{
	struct credential credential = askers_credential(&p->askers, wish->who);
	struct prefetch_unit *unit;
	uint64_t size = NAME_UNIT;

	if (!bandwidth(p, wish, directory, slice_of(name), &size))
		return PROGRESS_LATER;
	unit = unit_begin(p, wish, NAME_UNIT, NULL);
	if (!unit)
		return PROGRESS_FULL;
	if (unit->wish.intent.type == INTENT_FILES)
		unit->wish.intent.type = INTENT_FILE;
	if (!lookup_fetch(p->m, directory, name, &credential, unit))
		prefetch_ended(p->m, unit, false, NULL);
	return PROGRESS_SENT;
}

static enum progress named_file(struct prefetch *p, struct wish *wish, struct inode *directory)
{
	struct mount *m = p->m;
	char name[NAME_BYTES_MAX + 1];
	struct inode *child = NULL;
	enum progress progress;
	bool known, absent;

	memcpy(name, wish->intent.name, wish->intent.name_length);
	name[wish->intent.name_length] = '\0';
	pthread_mutex_lock(&m->lock);
	known = inode_name_find(m, directory, slice_of(name), mount_now(), &child);
	absent = known && !child;
	if (child && inode_attributes_stand(m, child, mount_now())) {
		wish->intent.type = INTENT_RANGE;
		wish->intent.inode = child->nodeid;
		wish->intent.offset = 0;
	} else {
		known = false;
	}
	pthread_mutex_unlock(&m->lock);
	if (absent)
		return PROGRESS_OVER;
	if (known)
		return PROGRESS_AGAIN;
	progress = look_up(p, wish, directory, name);
	return progress == PROGRESS_SENT ? PROGRESS_OVER : progress;
}

/* ---- wishes for what is behind a name in a listing ---- */

static int compare_entries(const void *a, const void *b, void *context)
{
	const struct listing *listing = context;
	struct listing_entry x = listing_entry(listing, *(const uint32_t *)a);
	struct listing_entry y = listing_entry(listing, *(const uint32_t *)b);
	size_t shorter = x.name_length < y.name_length ? x.name_length : y.name_length;
	int order = memcmp(listing->names + x.name_at, listing->names + y.name_at, shorter);

	return order ? order : (int)x.name_length - (int)y.name_length;
}

/* The order of the names; NULL: no memory. The listing is referenced. */
static const uint32_t *sorted(struct prefetch *p, struct listing *listing)
{
	struct sorted *place;
	struct listing *old;

	for (unsigned i = 0; i < PREFETCH_SORTED_MAX; i++)
		if (p->sorted[i].listing == listing)
			return p->sorted[i].order;
	place = &p->sorted[p->sorted_at++ % PREFETCH_SORTED_MAX];
	old = place->listing;
	place->listing = NULL;
	free(place->order);
	place->order = malloc((listing->count + 1) * sizeof(*place->order));
	pthread_mutex_lock(&p->m->lock);
	listing_unref(old);
	if (place->order)
		place->listing = listing_ref(listing);
	pthread_mutex_unlock(&p->m->lock);
	if (!place->order)
		return NULL;
	for (uint32_t i = 0; i < listing->count; i++)
		place->order[i] = i;
	qsort_r(place->order, listing->count, sizeof(*place->order), compare_entries, listing);
	return place->order;
}

static bool is_dots(const struct listing *listing, const struct listing_entry *e)
{
	const char *name = listing->names + e->name_at;

	return name[0] == '.' && (e->name_length == 1 || (e->name_length == 2 && name[1] == '.'));
}

/* Index behind the wish's name. */
static uint64_t behind_name(const struct listing *listing, const uint32_t *order,
			    const struct intent *intent)
{
	if (intent->name_length == 0)
		return 0;
	for (uint32_t i = 0; i < listing->count; i++) {
		struct listing_entry e = listing_entry(listing, order ? order[i] : i);

		if (e.name_length == intent->name_length &&
		    memcmp(listing->names + e.name_at, intent->name, e.name_length) == 0)
			return i + 1;
	}
	return listing->count;
}

/* May it be fetched at all, on nobody's order, how much and how soon? Under the mount's lock. */
static bool allowed(struct mount *m, const struct wish *wish, struct inode *directory,
		    const struct listing *listing, const struct listing_entry *e, struct intent *one)
{
	const struct slice name = { (const uint8_t *)listing->names + e->name_at, e->name_length };
	struct rules_attributes a;

	if (wish->class == WISH_ASKED ||
	    (!rules_limit_guesses(m) && !rules_set(m, RULES_PRIORITY, RULES_DEPTH)))
		return wish->class != WISH_POLICY;
	(void)rules_of_name(m, directory, name, S_ISDIR(e->type), &a);
	one->priority = rules_priority(&a);
	if (!rules_reaches(&a, S_ISDIR(e->type)))
		return false;
	if (wish->class == WISH_POLICY)
		one->length = rules_on(&a, RULES_ON_LIST);
	return wish->class == WISH_POLICY ? one->length > 0 :
	       S_ISDIR(e->type)           ? rules_amount(&a) != RULES_AMOUNT_OFF :
					    rules_may_guess(&a);
}

/* One entry: what is to be had of it becomes a wish of its own, which goes first. */
static enum progress entry(struct prefetch *p, struct wish *wish, struct inode *directory,
			   const struct listing *listing, const struct listing_entry *e)
{
	struct attributes heard;
	struct mount *m = p->m;
	struct intent one = wish->intent;
	char name[NAME_BYTES_MAX + 1];
	struct inode *child = NULL;
	bool may;

	pthread_mutex_lock(&m->lock);
	may = allowed(m, wish, directory, listing, e, &one);
	if (may)
		(void)listing_attributes(m, directory, listing, e, mount_now(), &heard, &child);
	one.inode = child ? child->nodeid : 0;
	pthread_mutex_unlock(&m->lock);
	if (!may)
		return PROGRESS_AGAIN;
	if (!one.inode) {
		memcpy(name, listing->names + e->name_at, e->name_length);
		name[e->name_length] = '\0';
		return look_up(p, wish, directory, name);
	}
	one.type = wish->intent.type == INTENT_FILES ? INTENT_RANGE : INTENT_LIST;
	one.offset = 0;
	pthread_mutex_lock(&p->lock);
	scheduler_add(&p->scheduler, &one, wish->class, wish->who);
	pthread_mutex_unlock(&p->lock);
	return PROGRESS_AGAIN;
}

static enum progress entries(struct prefetch *p, struct wish *wish, struct inode *directory,
			     struct listing *listing)
{
	const uint32_t *order = wish->intent.sorted ? sorted(p, listing) : NULL;
	uint32_t type = wish->intent.type == INTENT_FILES ? S_IFREG : S_IFDIR;
	enum progress progress = PROGRESS_AGAIN;
	unsigned looked = 0;

	if (wish->intent.sorted && !order)
		return PROGRESS_OVER;
	if (wish->position == 0)
		wish->position = 1 + behind_name(listing, order, &wish->intent);
	while (wish->intent.count > 0 && wish->position <= listing->count && looked++ < SCAN_MAX) {
		uint32_t at = (uint32_t)wish->position - 1;
		struct listing_entry e = listing_entry(listing, order ? order[at] : at);

		if ((e.type & S_IFMT) == type && !is_dots(listing, &e)) {
			progress = entry(p, wish, directory, listing, &e);
			if (progress == PROGRESS_FULL || progress == PROGRESS_LATER)
				return progress;
			wish->intent.count--;
			wish->intent.distance++;
			wish->position++;
			break;
		}
		wish->position++;
	}
	return wish->intent.count == 0 || wish->position > listing->count ? PROGRESS_OVER : progress;
}

static enum progress behind(struct prefetch *p, struct wish *wish, struct inode *directory)
{
	struct mount *m = p->m;
	struct listing *listing = NULL;
	enum progress progress;
	uint64_t instance;

	pthread_mutex_lock(&m->lock);
	instance = inode_lease(m, directory, mount_now(), NULL);
	if (instance && directory->live->listing && directory->live->listing->instance == instance)
		listing = listing_ref(directory->live->listing);
	pthread_mutex_unlock(&m->lock);
	if (!listing) /* where others make names all the time, it is gone as soon as it is here */
		return wish->again ? PROGRESS_OVER : list(p, wish, directory, true);
	progress = entries(p, wish, directory, listing);
	pthread_mutex_lock(&m->lock);
	listing_unref(listing);
	pthread_mutex_unlock(&m->lock);
	return progress;
}

/* Whether a policy lets it be guessed. */
static bool may(struct prefetch *p, const struct wish *wish, const struct inode *inode)
{
	struct mount *m = p->m;
	struct rules_attributes a;
	bool may = true;

	if (wish->class != WISH_GUESS && !wish->intent.unasked)
		return true;
	pthread_mutex_lock(&m->lock);
	if (wish->intent.unasked) {
		may = unasked_may(m, wish, inode);
	} else if (rules_limit_guesses(m) || rules_set(m, RULES_DEPTH, RULES_DEPTH)) {
		(void)rules_of(m, inode, &a);
		may = S_ISDIR(inode->type) ? rules_amount(&a) != RULES_AMOUNT_OFF : rules_may_guess(&a);
		if (wish->intent.type == INTENT_LIST)
			may = may && rules_reaches(&a, true);
	}
	pthread_mutex_unlock(&m->lock);
	return may;
}

/*
 * Whether it may come into the cache at all. Of a full one only what is read next is let in, and goes again
 * soon: what may be read at some time would only make that go which was read (policy.h).
 */
static bool has_room(struct prefetch *p, const struct wish *wish)
{
	bool some_time = wish->intent.predictor == PREDICTOR_SWEEP ||
			 wish->intent.predictor == PREDICTOR_EPOCH;

	return wish->class != WISH_GUESS || !some_time ||
	       cache_room(p->m->cache) > p->scheduler.bytes;
}

static enum progress go_on(struct prefetch *p, struct wish *wish)
{
	const struct intent *intent = &wish->intent;
	bool in = intent->type == INTENT_RANGE || intent->type == INTENT_LIST;
	struct inode *inode = use(p->m, in ? intent->inode : intent->directory);
	enum progress progress = PROGRESS_OVER;

	if (!inode)
		return PROGRESS_OVER;
	if (!may(p, wish, inode) || !has_room(p, wish)) {
		unuse(p->m, inode);
		return PROGRESS_OVER;
	}
	switch (intent->type) {
	case INTENT_RANGE:
		progress = range(p, wish, inode);
		break;
	case INTENT_FILE:
		progress = named_file(p, wish, inode);
		break;
	case INTENT_LIST:
		progress = list(p, wish, inode, false);
		break;
	case INTENT_FILES:
	case INTENT_LISTS:
		progress = behind(p, wish, inode);
		break;
	}
	unuse(p->m, inode);
	return progress;
}

bool wishes_dispatch(struct prefetch *p)
{
	enum progress progress = PROGRESS_AGAIN;
	bool busy = false;

	for (unsigned i = 0; i < SCAN_MAX && progress != PROGRESS_FULL && !memory_is_short(p->m); i++) {
		struct wish *next, wish;

		pthread_mutex_lock(&p->lock);
		next = !p->stop && scheduler_may(&p->scheduler, mount_now(), LIST_UNIT) ?
			       scheduler_next(&p->scheduler, mount_now()) :
			       NULL;
		if (next)
			wish = *next;
		pthread_mutex_unlock(&p->lock);
		if (!next)
			break;
		busy = true;
		progress = go_on(p, &wish);
		pthread_mutex_lock(&p->lock);
		/* It may have made room for another one. */
		if (next->order == wish.order && progress == PROGRESS_OVER)
			scheduler_remove(&p->scheduler, next);
		else if (next->order == wish.order)
			*next = wish;
		pthread_mutex_unlock(&p->lock);
	}
	return busy;
}

void wishes_finish(struct prefetch *p)
{
	for (unsigned i = 0; i < PREFETCH_SORTED_MAX; i++) {
		pthread_mutex_lock(&p->m->lock);
		listing_unref(p->sorted[i].listing);
		pthread_mutex_unlock(&p->m->lock);
		free(p->sorted[i].order);
		p->sorted[i] = (struct sorted){ NULL, NULL };
	}
}
