#include "fs/mount/prefetch.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

#include "fs/mount/follow.h"
#include "fs/mount/open_wait.h"
#include "fs/mount/prefetch_private.h"
#include "fs/mount/rules.h"
#include "fs/mount/session.h"
#include "fs/mount/unasked.h"

#define NAP_NS (300 * NS_PER_US) /* accesses come in bursts: the thread is not woken for each */
#define NAPS 16u		 /* without anything to do, before it sleeps */
#define OPENS_MS 5u		 /* how often opens that wait are looked at, at most */
#define LOOK_MS 50u		 /* wishes wait: may more be sent by now? */

/* ---- what applications do ---- */

static void tell(struct prefetch *p, const struct access *access, uint64_t who)
{
	struct record *record;

	pthread_mutex_lock(&p->lock);
	if (p->count == PREFETCH_RING || access->name.length > NAME_BYTES_MAX) {
		p->dropped++;
	} else {
		record = &p->ring[(p->first + p->count++) % PREFETCH_RING];
		record->access = *access;
		record->who = who;
		if (access->name.length)
			memcpy(record->name, access->name.data, access->name.length);
		record->access.name.data = (const uint8_t *)record->name;
	}
	if (p->sleeping)
		pthread_cond_signal(&p->wake);
	pthread_mutex_unlock(&p->lock);
}

/* What the inode itself says. Under the mount's lock. */
static struct access complete(const struct inode *inode, const struct access *access)
{
	struct access told = *access;
	const struct name_entry *name = inode ? inode_name(inode) : NULL;

	told.at = mount_now();
	if (!inode)
		return told;
	told.inode = inode->nodeid;
	told.file_type = inode->type;
	if (!told.directory && name)
		told.directory = name->directory->nodeid;
	if (!told.name.length && name)
		told.name = (struct slice){ (const uint8_t *)name->name, name->length };
	return told;
}

void prefetch_access(struct mount *m, fuse_req_t request, struct inode *inode,
		     const struct access *access)
{
	const struct fuse_ctx *context = request ? fuse_req_ctx(request) : NULL;
	struct access told;

	if (!m->prefetch)
		return;
	told = complete(inode, access);
	follow_access(m, &told);
	if (context && !told.reader)
		told.reader = (uint64_t)context->pid;
	tell(m->prefetch, &told, context ? askers_user(context->uid, context->gid) : 0);
}

void prefetch_listed(struct mount *m, struct inode *directory, const struct listing *listing,
		     const struct credential *credential)
{
	struct access access = { .type = ACCESS_LISTED };

	if (!m->prefetch)
		return;
	for (uint32_t i = 0; i < listing->count; i++) {
		access.files += S_ISREG(listing_entry(listing, i).type);
		access.directories += S_ISDIR(listing_entry(listing, i).type);
	}
	access.directories -= access.directories >= 2 ? 2 : access.directories; /* "." and ".." */
	access = complete(directory, &access);
	tell(m->prefetch, &access, askers_user(credential->uid, credential->gid));
}

static void demand(struct mount *m)
{
	if (m->prefetch)
		atomic_store_explicit(&m->prefetch->demand, true, memory_order_relaxed);
}

void prefetch_demand(struct mount *m, fuse_req_t request)
{
	if (!follow_is_worker(m, fuse_req_ctx(request)->pid))
		demand(m);
}

void prefetch_demand_for(struct mount *m, const struct inode *inode)
{
	if (!follow_is_held(m, inode))
		demand(m);
}

/* ---- what users ask for ---- */

bool prefetch_ask(struct mount *m, const struct intent *intent, const struct credential *credential)
{
	struct prefetch *p = m->prefetch;
	uint32_t count;

	if (!p)
		return false;
	pthread_mutex_lock(&p->lock);
	count = scheduler_asked_count(&p->scheduler);
	if (count < PREFETCH_ASKED_MAX)
		scheduler_add(&p->scheduler, intent, WISH_ASKED, askers_who(&p->askers, credential));
	if (p->sleeping)
		pthread_cond_signal(&p->wake);
	pthread_mutex_unlock(&p->lock);
	return count < PREFETCH_ASKED_MAX;
}

void prefetch_poke(struct mount *m)
{
	struct prefetch *p = m->prefetch;

	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	if (p->sleeping)
		pthread_cond_signal(&p->wake);
	pthread_mutex_unlock(&p->lock);
}

bool prefetch_asked(struct mount *m, uint64_t nodeid, uint64_t start, uint64_t end)
{
	struct prefetch *p = m->prefetch;
	bool found = false;

	if (!p)
		return false;
	pthread_mutex_lock(&p->lock);
	found = scheduler_asked(&p->scheduler, nodeid, start, end);
	for (unsigned i = 0; i < PREFETCH_UNITS_MAX && !found; i++)
		found = p->units[i].state != UNIT_FREE &&
			wish_is_asked(&p->units[i].wish, nodeid, start, end);
	pthread_mutex_unlock(&p->lock);
	return found;
}

void prefetch_cancel(struct mount *m, uint64_t nodeid)
{
	struct prefetch *p = m->prefetch;

	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	scheduler_cancel(&p->scheduler, nodeid);
	pthread_mutex_unlock(&p->lock);
}

/* ---- requests ---- */

void prefetch_ended(struct mount *m, struct prefetch_unit *unit, bool arrived,
		    const struct inode *child)
{
	struct prefetch *p = m->prefetch;

	pthread_mutex_lock(&p->lock);
	unit->state = UNIT_ENDED;
	unit->arrived = arrived;
	unit->ended_at = mount_now();
	if (child) {
		unit->child = child->nodeid;
		unit->child_type = child->type;
	}
	p->ended++;
	if (p->sleeping)
		pthread_cond_signal(&p->wake);
	pthread_mutex_unlock(&p->lock);
}

/* Goes on from what has come. Under both locks. */
static void unit_end(struct prefetch *p, struct prefetch_unit *unit)
{
	struct intent *intent = &unit->wish.intent;
	struct wish *wish;

	scheduler_ended(&p->scheduler, unit->ended_at, unit->sent_at, unit->bytes,
			unit->arrived ? unit->bytes : 0);
	if (unit->nodeid && unit->wish.class == WISH_GUESS)
		ledger_arrived(p->ledger, unit->nodeid, unit->offset, unit->length, !unit->arrived);
	if (unit->nodeid && !unit->arrived)
		fetched_failed(p->fetched, unit->nodeid, unit->length);
	unit->state = UNIT_FREE;
	unasked_ended(p, unit);
	if (!unit->arrived)
		return;
	if (unit->resume) {
		wish = scheduler_add(&p->scheduler, intent, unit->wish.class, unit->wish.who);
		if (wish)
			wish->again = true;
	} else if (unit->child && S_ISREG(unit->child_type) && intent->type == INTENT_FILE) {
		intent->type = INTENT_RANGE;
		intent->inode = unit->child;
		intent->offset = 0;
		scheduler_add(&p->scheduler, intent, unit->wish.class, unit->wish.who);
	} else if (unit->child && S_ISDIR(unit->child_type) && intent->type == INTENT_LISTS) {
		intent->type = INTENT_LIST;
		intent->inode = unit->child;
		scheduler_add(&p->scheduler, intent, unit->wish.class, unit->wish.who);
	}
}

/* ---- the thread ---- */

/* What a policy wants since that was done. */
static void obey(struct prefetch *p, const struct record *record)
{
	const struct access *access = &record->access;
	struct mount *m = p->m;
	struct rules_attributes a;
	struct intent intent = { .type = INTENT_RANGE, .inode = access->inode };
	const struct inode *inode;
	uint64_t amount = RULES_AMOUNT_OFF;

	if (access->type != ACCESS_OPEN && access->type != ACCESS_READ && access->type != ACCESS_LISTED)
		return;
	pthread_mutex_lock(&m->lock);
	inode = rules_set(m, RULES_PREFETCH, RULES_PREFETCH) ? inode_by_nodeid(m, access->inode) : NULL;
	if (inode) {
		(void)rules_of(m, inode, &a);
		amount = rules_when(&a) & RULES_ON_OPEN ? rules_amount(&a) : RULES_AMOUNT_OFF;
		intent.priority = rules_priority(&a);
	}
	pthread_mutex_unlock(&m->lock);
	if (!inode)
		return;
	if (access->type == ACCESS_LISTED) {
		intent.type = INTENT_FILES;
		intent.directory = access->inode;
		intent.inode = 0;
		intent.count = access->files;
		amount = access->files ? RULES_AMOUNT_WHOLE : RULES_AMOUNT_OFF; /* entry() asks for each */
	}
	/* The rest is that behind what is read; of what is there nothing is sent (gap()). */
	if ((access->type == ACCESS_READ) != (amount == RULES_AMOUNT_REST) ||
	    amount == RULES_AMOUNT_OFF || amount == RULES_AMOUNT_METADATA)
		return;
	intent.offset = access->type == ACCESS_READ ? access->offset : 0;
	intent.length = amount >= RULES_AMOUNT_BYTES ? amount - RULES_AMOUNT_BYTES : UINT64_MAX;
	pthread_mutex_lock(&p->lock);
	scheduler_add(&p->scheduler, &intent, WISH_POLICY, record->who);
	pthread_mutex_unlock(&p->lock);
}

static void hear(struct prefetch *p, const struct record *record)
{
	struct intents intents = { .items = p->intents, .capacity = PREFETCH_INTENTS_MAX };
	const struct access *access = &record->access;
	struct mount *m = p->m;

	tracer_access(&p->tracer, mount_now(), access);
	pthread_mutex_lock(&p->ledger_lock);
	if (access->type == ACCESS_READ) {
		ledger_read(p->ledger, access->inode, access->offset, access->length);
		fetched_read(p->fetched, access->inode, access->offset, access->length);
	} else if (access->type == ACCESS_LIST) {
		ledger_read(p->ledger, access->inode, LEDGER_LISTING, 0);
		fetched_read(p->fetched, access->inode, FETCHED_LISTING, 0);
	}
	predictors_access(p->predictors, access, &intents);
	pthread_mutex_unlock(&p->ledger_lock);
	if (intents.count == 0)
		return;
	pthread_mutex_lock(&m->lock);
	for (uint32_t i = 0; i < intents.count && rules_set(m, RULES_PRIORITY, RULES_PRIORITY); i++)
		intents.items[i].priority = rules_priority_of(m, &intents.items[i]);
	pthread_mutex_unlock(&m->lock);
	pthread_mutex_lock(&p->lock);
	for (uint32_t i = 0; i < intents.count; i++)
		/* What follows a reader is fetched where it reads (ahead.h). */
		if (intents.items[i].predictor != PREDICTOR_SEQUENTIAL)
			scheduler_add(&p->scheduler, &intents.items[i], WISH_GUESS, record->who);
	pthread_mutex_unlock(&p->lock);
}

/* Looks at what came meanwhile. True: there was something. */
static bool look(struct prefetch *p)
{
	struct record record;
	bool busy = false;

	pthread_mutex_lock(&p->ledger_lock);
	pthread_mutex_lock(&p->lock);
	if (atomic_exchange_explicit(&p->demand, false, memory_order_relaxed))
		scheduler_demand(&p->scheduler, mount_now());
	for (unsigned i = 0; p->ended > 0 && i < PREFETCH_UNITS_MAX; i++) {
		if (p->units[i].state == UNIT_ENDED) {
			unit_end(p, &p->units[i]);
			p->ended--;
			busy = true;
		}
	}
	pthread_mutex_unlock(&p->ledger_lock);
	while (p->count > 0 && !p->stop) {
		record = p->ring[p->first];
		record.access.name.data = (const uint8_t *)record.name;
		p->first = (p->first + 1) % PREFETCH_RING;
		p->count--;
		pthread_mutex_unlock(&p->lock);
		hear(p, &record);
		obey(p, &record);
		busy = true;
		pthread_mutex_lock(&p->lock);
	}
	pthread_mutex_unlock(&p->lock);
	return busy;
}

static void rest(struct prefetch *p)
{
	struct timespec until;

	pthread_mutex_lock(&p->lock);
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += LOOK_MS * (long)NS_PER_MS;
	if (until.tv_nsec >= (long)NS_PER_S) {
		until.tv_nsec -= (long)NS_PER_S;
		until.tv_sec++;
	}
	p->sleeping = true;
	if (!p->stop && !p->policies && p->count == 0 && p->ended == 0) {
		if (scheduler_waiting(&p->scheduler) > 0 || p->opens_wait || follow_is_active(p->m) ||
		    unasked_waits(p))
			pthread_cond_timedwait(&p->wake, &p->lock, &until);
		else
			pthread_cond_wait(&p->wake, &p->lock);
	}
	p->sleeping = false;
	p->policies = false;
	pthread_mutex_unlock(&p->lock);
}

void prefetch_wake(struct mount *m)
{
	struct prefetch *p = m->prefetch;

	pthread_mutex_lock(&p->lock);
	p->opens_wait = true;
	if (p->sleeping)
		pthread_cond_signal(&p->wake);
	pthread_mutex_unlock(&p->lock);
}

static void look_at_opens(struct prefetch *p)
{
	struct instant now = mount_now();
	bool wait;

	pthread_mutex_lock(&p->lock);
	wait = p->opens_wait && instant_until(p->opens_at, now).ns >= OPENS_MS * NS_PER_MS;
	if (wait)
		p->opens_wait = false; /* before: others may come meanwhile */
	pthread_mutex_unlock(&p->lock);
	if (!wait)
		return;
	p->opens_at = now;
	if (!open_wait_look(p->m))
		return;
	pthread_mutex_lock(&p->lock);
	p->opens_wait = true;
	pthread_mutex_unlock(&p->lock);
}

static void *thread(void *context)
{
	const struct timespec nap = { .tv_nsec = NAP_NS };
	struct prefetch *p = context;
	unsigned naps = 0;
	bool stop = false;

	while (!stop) {
		bool busy = look(p);

		follow_tick(p->m);
		busy |= unasked_step(p);
		busy |= wishes_dispatch(p);
		look_at_opens(p);
		naps = busy ? 0 : naps + 1;
		if (naps < NAPS) {
			nanosleep(&nap, NULL);
		} else {
			rest(p);
			naps = 0;
		}
		pthread_mutex_lock(&p->lock);
		stop = p->stop;
		pthread_mutex_unlock(&p->lock);
	}
	return NULL;
}

/* ---- its life ---- */

int prefetch_start(struct mount *m)
{
	struct predictors_config config = { 0 };
	struct cache_counters cache;
	struct prefetch *p;
	pthread_condattr_t attr;
	int r;

	if (m->options->prefetch && strcmp(m->options->prefetch, "off") == 0)
		return 0;
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	p->m = m;
	p->scheduler.bytes_max = PREFETCH_BYTES_MAX;
	p->scheduler.count_max = PREFETCH_UNITS_MAX;
	r = ledger_create(0, &session_allocator, &p->ledger);
	if (r == 0)
		r = fetched_create(&session_allocator, &p->fetched);
	config.ledger = p->ledger;
	cache_counters(m->cache, &cache);
	config.cache_bytes = cache.bytes_max;
	if (r == 0)
		r = follow_create(&m->follow);
	if (r == 0)
		r = predictors_create(&config, &session_allocator, &p->predictors);
	if (r == 0)
		r = unasked_create(p);
	if (r < 0) {
		fetched_destroy(p->fetched);
		predictors_destroy(p->predictors);
		ledger_destroy(p->ledger);
		follow_destroy(m);
		free(p);
		return r;
	}
	pthread_mutex_init(&p->lock, NULL);
	pthread_mutex_init(&p->ledger_lock, NULL);
	pthread_mutex_init(&p->askers.lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&p->wake, &attr);
	pthread_condattr_destroy(&attr);
	tracer_init(&p->tracer);
	pthread_mutex_lock(&m->lock);
	m->prefetch = p;
	pthread_mutex_unlock(&m->lock);
	r = pthread_create(&p->thread, NULL, thread, p);
	p->started = r == 0;
	return -r;
}

void prefetch_stop(struct mount *m)
{
	struct prefetch *p = m->prefetch;

	if (!p || !p->started)
		return;
	pthread_mutex_lock(&p->lock);
	p->stop = true;
	pthread_cond_signal(&p->wake);
	pthread_mutex_unlock(&p->lock);
	pthread_join(p->thread, NULL);
	p->started = false;
	open_wait_end(m);
	wishes_finish(p);
	unasked_finish(p);
}

void prefetch_free(struct mount *m)
{
	struct prefetch *p = m->prefetch;

	if (!p)
		return;
	m->prefetch = NULL;
	follow_destroy(m);
	tracer_finish(&p->tracer);
	unasked_destroy(p);
	predictors_destroy(p->predictors);
	ledger_destroy(p->ledger);
	fetched_destroy(p->fetched);
	pthread_cond_destroy(&p->wake);
	pthread_mutex_destroy(&p->lock);
	pthread_mutex_destroy(&p->ledger_lock);
	pthread_mutex_destroy(&p->askers.lock);
	free(p);
}

int prefetch_trace(struct mount *m, char *buffer, size_t size, size_t *ret_length)
{
	if (!m->prefetch)
		return -EOPNOTSUPP;
	return tracer_take(&m->prefetch->tracer, mount_now(), buffer, size, ret_length);
}

bool prefetch_counters(struct mount *m, struct prefetch_counters *ret_counters)
{
	struct prefetch *p = m->prefetch;

	if (!p)
		return false;
	pthread_mutex_lock(&p->ledger_lock);
	pthread_mutex_lock(&p->lock);
	*ret_counters = (struct prefetch_counters){
		.waiting = scheduler_waiting(&p->scheduler),
		.sent = p->sent,
		.dropped = p->dropped + p->scheduler.dropped,
		.bytes = p->scheduler.bytes,
		.window = scheduler_window(&p->scheduler),
	};
	for (unsigned i = 0; i < PREDICTOR_COUNT; i++)
		ledger_counts(p->ledger, i, &ret_counters->predictors[i]);
	pthread_mutex_unlock(&p->lock);
	pthread_mutex_unlock(&p->ledger_lock);
	return true;
}

bool prefetch_fetched(struct mount *m, uint64_t nodeid, struct fetched_facts *ret_facts)
{
	struct prefetch *p = m->prefetch;
	bool known;

	if (!p)
		return false;
	pthread_mutex_lock(&p->ledger_lock);
	known = fetched_get(p->fetched, nodeid, ret_facts);
	pthread_mutex_unlock(&p->ledger_lock);
	return known;
}
