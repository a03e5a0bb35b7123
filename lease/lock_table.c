#include "lease/lock_table.h"

#include "lease/status.h"

#include <assert.h>
#include <errno.h>

/* An inode that has locks, or requests that wait for some. */
struct lock_inode {
	struct handle handle;  /* key in lock_table.inodes */
	struct list holdings;  /* with ranges: what can be in the way */
	struct list idle;      /* holdings without any, of owners that wait: there may be many */
	struct list waiters;   /* in the order in which they came */
	struct list offered;
};

struct lock_session {
	struct session_id id;  /* key in lock_table.sessions */
	struct map owners[LOCK_KINDS];
	struct list owner_list;
	struct map waiters;
	struct list offered;   /* waiter.in_session: offered or refused, oldest first */
	uint32_t count;        /* ranges held, and waiters */
	bool ended;
	uint64_t mark;         /* with which it ended */
	struct list in_ended;  /* lock_table.ended */
	struct {
		uint64_t id;
		uint16_t status;
	} answered[LOCK_WINDOW]; /* request `id` at id % LOCK_WINDOW */
};

struct lock_owner {
	uint64_t number;       /* key in lock_session.owners */
	enum lock_kind kind;
	struct lock_session *session;
	struct list in_session;
	struct list holdings;  /* holding.in_owner */
	struct list waiters;   /* waiter.in_owner */
	uint32_t waiting;      /* of them, those that are WAITING */
	struct list in_search; /* of a deadlock */
	uint64_t searched;     /* the search that saw it last */
};

/* What one owner has of one inode. Kept while it has ranges, or a waiter that may get some. */
struct holding {
	struct lock_inode *inode;
	struct lock_owner *owner;
	struct list in_inode, in_owner;
	struct lock_set set;
	uint32_t waiter_count;
};

enum waiter_state { WAITER_WAITING, WAITER_OFFERED, WAITER_REFUSED };

struct waiter {
	uint64_t number;        /* key in lock_session.waiters */
	enum waiter_state state;
	struct holding *holding; /* its owner's, with a reservation */
	struct lock_range range;
	struct list in_inode;   /* lock_inode.waiters or .offered; in none when refused */
	struct list in_owner;
	struct list in_session; /* lock_session.offered */
	struct list unsent;     /* lock_table.unsent */
	struct instant offered_at;
};

struct lock_table {
	struct lock_limits limits;
	const struct allocator *allocator;
	uint64_t seed;
	struct map sessions, inodes;
	struct list unsent;
	struct list ended; /* sessions that still hold something, by mark */
	uint64_t search;
	uint64_t count;
	struct lock_counters counters;
};

/* ---- memory ---- */

static void *allocate(struct lock_table *t, size_t size)
{
	void *pointer = t->allocator->resize(t->allocator->context, NULL, 0, size);

	if (pointer)
		memset(pointer, 0, size);
	return pointer;
}

static void release(struct lock_table *t, void *pointer, size_t size)
{
	t->allocator->resize(t->allocator->context, pointer, size, 0);
}

int lock_table_create(const struct lock_limits *limits, const struct allocator *allocator,
		      uint64_t seed, struct lock_table **ret_table)
{
	struct lock_table *t = allocator->resize(allocator->context, NULL, 0, sizeof(*t));

	if (!t)
		return -ENOMEM;
	*t = (struct lock_table){ .limits = *limits, .allocator = allocator, .seed = seed };
	map_init(&t->sessions, allocator, MAP_U64, offsetof(struct lock_session, id), seed);
	map_init(&t->inodes, allocator, MAP_HANDLE, offsetof(struct lock_inode, handle), ~seed);
	list_init(&t->unsent);
	list_init(&t->ended);
	*ret_table = t;
	return 0;
}

static struct lock_session *session_make(struct lock_table *t, struct session_id id)
{
	struct lock_session *session = map_get(&t->sessions, &id.value);

	if (session)
		return session;
	if (map_reserve(&t->sessions, 1))
		return NULL;
	session = allocate(t, sizeof(*session));
	if (!session)
		return NULL;
	session->id = id;
	list_init(&session->owner_list);
	list_init(&session->offered);
	list_init(&session->in_ended);
	for (unsigned kind = 0; kind < LOCK_KINDS; kind++)
		map_init(&session->owners[kind], t->allocator, MAP_U64,
			 offsetof(struct lock_owner, number), t->seed ^ id.value);
	map_init(&session->waiters, t->allocator, MAP_U64, offsetof(struct waiter, number),
		 t->seed ^ id.value);
	map_insert(&t->sessions, session);
	return session;
}

static void session_free(struct lock_table *t, struct lock_session *session)
{
	assert(session->count == 0 && list_empty(&session->owner_list));
	list_remove(&session->in_ended);
	map_remove(&t->sessions, &session->id.value);
	for (unsigned kind = 0; kind < LOCK_KINDS; kind++)
		map_finish(&session->owners[kind]);
	map_finish(&session->waiters);
	release(t, session, sizeof(*session));
}

static struct lock_inode *inode_make(struct lock_table *t, const struct handle *handle)
{
	struct lock_inode *inode = map_get(&t->inodes, handle);

	if (inode)
		return inode;
	if (map_reserve(&t->inodes, 1))
		return NULL;
	inode = allocate(t, sizeof(*inode));
	if (!inode)
		return NULL;
	inode->handle = *handle;
	list_init(&inode->holdings);
	list_init(&inode->idle);
	list_init(&inode->waiters);
	list_init(&inode->offered);
	map_insert(&t->inodes, inode);
	return inode;
}

static void inode_put(struct lock_table *t, struct lock_inode *inode)
{
	if (!list_empty(&inode->holdings) || !list_empty(&inode->idle))
		return;
	map_remove(&t->inodes, &inode->handle);
	release(t, inode, sizeof(*inode));
}

static struct lock_owner *owner_make(struct lock_table *t, struct lock_session *session,
				     enum lock_kind kind, uint64_t number)
{
	struct lock_owner *owner = map_get(&session->owners[kind], &number);

	if (owner)
		return owner;
	if (map_reserve(&session->owners[kind], 1))
		return NULL;
	owner = allocate(t, sizeof(*owner));
	if (!owner)
		return NULL;
	owner->number = number;
	owner->kind = kind;
	owner->session = session;
	list_init(&owner->holdings);
	list_init(&owner->waiters);
	list_init(&owner->in_search);
	list_init(&owner->in_session);
	list_append(&session->owner_list, &owner->in_session);
	map_insert(&session->owners[kind], owner);
	return owner;
}

static void owner_put(struct lock_table *t, struct lock_owner *owner)
{
	if (!list_empty(&owner->holdings))
		return;
	map_remove(&owner->session->owners[owner->kind], &owner->number);
	list_remove(&owner->in_session);
	release(t, owner, sizeof(*owner));
}

static struct holding *holding_find(const struct lock_table *t, struct session_id session_id,
				    const struct handle *handle, enum lock_kind kind,
				    uint64_t number)
{
	const struct lock_session *session = map_get(&t->sessions, &session_id.value);
	const struct lock_owner *owner = session ? map_get(&session->owners[kind], &number) : NULL;

	if (!owner)
		return NULL;
	for (struct list *at = owner->holdings.next; at != &owner->holdings; at = at->next) {
		struct holding *holding = LIST_ENTRY(at, struct holding, in_owner);

		if (handle_equal(&holding->inode->handle, handle))
			return holding;
	}
	return NULL;
}

/* Nothing is left of it: gives it up, with its owner and its inode. */
static void holding_put(struct lock_table *t, struct holding *holding)
{
	struct lock_inode *inode = holding->inode;
	struct lock_owner *owner = holding->owner;

	if (holding->set.count || holding->waiter_count)
		return;
	list_remove(&holding->in_inode);
	list_remove(&holding->in_owner);
	lock_set_finish(&holding->set);
	release(t, holding, sizeof(*holding));
	owner_put(t, owner);
	inode_put(t, inode);
}

static struct holding *holding_make(struct lock_table *t, struct lock_session *session,
				    const struct lock_request *request)
{
	struct holding *holding = holding_find(t, session->id, &request->handle, request->kind,
					       request->owner);
	struct lock_owner *owner;
	struct lock_inode *inode;

	if (holding)
		return holding;
	owner = owner_make(t, session, request->kind, request->owner);
	inode = inode_make(t, &request->handle);
	holding = owner && inode ? allocate(t, sizeof(*holding)) : NULL;
	if (!holding) {
		if (owner)
			owner_put(t, owner);
		if (inode)
			inode_put(t, inode);
		return NULL;
	}
	holding->inode = inode;
	holding->owner = owner;
	lock_set_init(&holding->set, t->allocator);
	list_init(&holding->in_inode);
	list_init(&holding->in_owner);
	list_append(&inode->idle, &holding->in_inode);
	list_append(&owner->holdings, &holding->in_owner);
	return holding;
}

/* ---- conflicts ---- */

static bool rivals(const struct holding *a, const struct holding *b)
{
	return a != b && a->owner->kind == b->owner->kind;
}

/* What keeps the owner of `mine` from having `range`, and whose it is; NULL: nothing. */
static const struct lock_range *conflict_of(const struct holding *mine,
					    const struct lock_range *range,
					    const struct holding **ret_whose)
{
	const struct lock_inode *inode = mine->inode;
	const struct list *at;

	for (at = inode->holdings.next; at != &inode->holdings; at = at->next) {
		const struct holding *other = LIST_ENTRY(at, const struct holding, in_inode);
		const struct lock_range *found =
			rivals(mine, other) ? lock_set_conflict(&other->set, range) : NULL;

		if (found) {
			*ret_whose = other;
			return found;
		}
	}
	for (at = inode->offered.next; at != &inode->offered; at = at->next) {
		const struct waiter *other = LIST_ENTRY(at, const struct waiter, in_inode);

		if (rivals(mine, other->holding) && lock_conflicts(&other->range, range)) {
			*ret_whose = other->holding;
			return &other->range;
		}
	}
	return NULL;
}

static bool is_free(const struct holding *mine, const struct lock_range *range)
{
	const struct holding *whose;

	return !conflict_of(mine, range, &whose);
}

/* ---- deadlocks ---- */

static bool search_add(struct lock_table *t, struct list *stack, struct lock_owner *owner,
		       const struct lock_owner *target)
{
	if (owner == target)
		return true;
	if (owner->searched != t->search && owner->waiting) {
		owner->searched = t->search;
		list_append(stack, &owner->in_search);
	}
	return false;
}

/* Adds the owners of what keeps `range` from `mine`; true when `target` is one of them. */
static bool search_blockers(struct lock_table *t, struct list *stack, const struct holding *mine,
			    const struct lock_range *range, const struct lock_owner *target)
{
	LIST_FOR_EACH(at, &mine->inode->holdings) {
		struct holding *other = LIST_ENTRY(at, struct holding, in_inode);

		if (rivals(mine, other) && lock_set_conflict(&other->set, range) &&
		    search_add(t, stack, other->owner, target))
			return true;
	}
	LIST_FOR_EACH(it, &mine->inode->offered) {
		struct waiter *other = LIST_ENTRY(it, struct waiter, in_inode);

		if (rivals(mine, other->holding) && lock_conflicts(&other->range, range) &&
		    search_add(t, stack, other->holding->owner, target))
			return true;
	}
	return false;
}

/*
 * PROTOCOL.md 10.4: would the owner of `mine` wait for itself if it waited for `range`? Owners are
 * processes, so one with several threads may be said to, as Linux does.
 */
static bool deadlocks(struct lock_table *t, const struct holding *mine,
		      const struct lock_range *range)
{
	struct list stack, *at;
	bool found;

	if (mine->owner->kind != LOCK_KIND_FCNTL)
		return false;
	list_init(&stack);
	t->search++;
	found = search_blockers(t, &stack, mine, range, mine->owner);
	while (!found && (at = list_first(&stack))) {
		struct lock_owner *owner = LIST_ENTRY(at, struct lock_owner, in_search);

		list_remove(at);
		for (struct list *w = owner->waiters.next; w != &owner->waiters && !found;
		     w = w->next) {
			struct waiter *waiter = LIST_ENTRY(w, struct waiter, in_owner);

			if (waiter->state == WAITER_WAITING)
				found = search_blockers(t, &stack, waiter->holding, &waiter->range,
							mine->owner);
		}
	}
	while ((at = list_first(&stack)))
		list_remove(at);
	t->counters.deadlocks += found;
	return found;
}

/* ---- waiters ---- */

static void waiter_free(struct lock_table *t, struct waiter *waiter)
{
	struct holding *holding = waiter->holding;
	struct lock_session *session = holding->owner->session;

	map_remove(&session->waiters, &waiter->number);
	list_remove(&waiter->in_inode);
	list_remove(&waiter->in_owner);
	list_remove(&waiter->in_session);
	list_remove(&waiter->unsent);
	t->counters.waiting -= waiter->state == WAITER_WAITING;
	holding->owner->waiting -= waiter->state == WAITER_WAITING;
	t->counters.offered -= waiter->state == WAITER_OFFERED;
	lock_set_unreserve(&holding->set);
	holding->waiter_count--;
	session->count--;
	t->count--;
	release(t, waiter, sizeof(*waiter));
}

/* WAITING no more: the host hears of it until it settles it. */
static void waiter_tell(struct lock_table *t, struct instant now, struct waiter *waiter,
			enum waiter_state state)
{
	list_remove(&waiter->in_inode);
	waiter->state = state;
	waiter->offered_at = now;
	t->counters.waiting--;
	waiter->holding->owner->waiting--;
	if (state == WAITER_OFFERED) {
		t->counters.offered++;
		list_append(&waiter->holding->inode->offered, &waiter->in_inode);
	}
	list_append(&waiter->holding->owner->session->offered, &waiter->in_session);
	list_append(&t->unsent, &waiter->unsent);
}

/*
 * `mine` has got `range`. Where its owner waits for others by another thread, that may close a circle
 * for those who wait for this range.
 */
static void refuse_deadlocked(struct lock_table *t, struct instant now, const struct holding *mine,
			      const struct lock_range *range)
{
	if (mine->owner->kind != LOCK_KIND_FCNTL || !mine->owner->waiting)
		return;
	LIST_FOR_EACH(at, &mine->inode->waiters) {
		struct waiter *waiter = LIST_ENTRY(at, struct waiter, in_inode);

		if (rivals(mine, waiter->holding) && lock_conflicts(&waiter->range, range) &&
		    deadlocks(t, waiter->holding, &waiter->range))
			waiter_tell(t, now, waiter, WAITER_REFUSED);
	}
}

/* Something of the inode became free: offers it to those who wait, the first first. */
static void serve(struct lock_table *t, struct instant now, struct lock_inode *inode)
{
	LIST_FOR_EACH(at, &inode->waiters) {
		struct waiter *waiter = LIST_ENTRY(at, struct waiter, in_inode);

		if (is_free(waiter->holding, &waiter->range))
			waiter_tell(t, now, waiter, WAITER_OFFERED);
	}
	LIST_FOR_EACH(it, &inode->offered) {
		struct waiter *waiter = LIST_ENTRY(it, struct waiter, in_inode);

		refuse_deadlocked(t, now, waiter->holding, &waiter->range);
	}
}

/* ---- setting ---- */

/* It had `before` ranges. */
static void holding_sort(struct holding *holding, uint32_t before)
{
	if (!before == !holding->set.count)
		return;
	list_remove(&holding->in_inode);
	list_append(before ? &holding->inode->idle : &holding->inode->holdings, &holding->in_inode);
}

/* Changes what is held; room is there. */
static void holding_put_range(struct lock_table *t, struct holding *holding,
			      const struct lock_range *range)
{
	struct lock_session *session = holding->owner->session;
	uint32_t before = holding->set.count;

	lock_set_put(&holding->set, range);
	holding_sort(holding, before);
	session->count = session->count - before + holding->set.count;
	t->count = t->count - before + holding->set.count;
	t->counters.held = t->counters.held - before + holding->set.count;
}

/* Two ranges more, at most, or a waiter. */
static bool within_limits(struct lock_table *t, const struct lock_session *session)
{
	bool within = session->count + 2 <= t->limits.session_max &&
		      t->count + 2 <= t->limits.total_max;

	t->counters.refused += !within;
	return within;
}

static uint16_t enqueue(struct lock_table *t, struct holding *holding,
			const struct lock_request *request)
{
	struct lock_session *session = holding->owner->session;
	struct waiter *waiter;

	if (map_get(&session->waiters, &request->waiter))
		return STATUS_INVAL;
	if (map_reserve(&session->waiters, 1) || lock_set_reserve(&holding->set))
		return STATUS_NOLOCK;
	waiter = allocate(t, sizeof(*waiter));
	if (!waiter) {
		lock_set_unreserve(&holding->set);
		return STATUS_NOLOCK;
	}
	waiter->number = request->waiter;
	waiter->holding = holding;
	waiter->range = request->range;
	list_init(&waiter->in_inode);
	list_init(&waiter->in_owner);
	list_init(&waiter->in_session);
	list_init(&waiter->unsent);
	list_append(&holding->inode->waiters, &waiter->in_inode);
	list_append(&holding->owner->waiters, &waiter->in_owner);
	map_insert(&session->waiters, waiter);
	holding->waiter_count++;
	session->count++;
	t->count++;
	t->counters.waiting++;
	holding->owner->waiting++;
	return STATUS_LOCKWAITS;
}

/* `holding` may be left without anything: the caller puts it. */
static uint16_t acquire(struct lock_table *t, struct instant now, struct holding *holding,
			const struct lock_request *request)
{
	struct lock_range nothing = request->range;

	if (!within_limits(t, holding->owner->session) || lock_set_prepare(&holding->set))
		return STATUS_NOLOCK;
	if (is_free(holding, &request->range)) {
		holding_put_range(t, holding, &request->range);
		refuse_deadlocked(t, now, holding, &request->range);
		serve(t, now, holding->inode); /* it may be weaker than before */
		return STATUS_OK;
	}
	if (request->waiter && deadlocks(t, holding, &request->range))
		return STATUS_DEADLOCK;
	if (request->waiter) {
		uint16_t status = enqueue(t, holding, request);

		if (status != STATUS_LOCKWAITS)
			return status;
	}
	if (request->kind == LOCK_KIND_FLOCK) {
		/* As flock(2): to convert is to remove, and then to lock. */
		nothing.type = LOCK_TYPE_NONE;
		holding_put_range(t, holding, &nothing);
		serve(t, now, holding->inode);
	}
	return request->waiter ? STATUS_LOCKWAITS : STATUS_LOCKED;
}

static uint16_t unlock(struct lock_table *t, struct instant now, struct lock_session *session,
		       const struct lock_request *request)
{
	struct holding *holding = holding_find(t, session->id, &request->handle, request->kind,
					       request->owner);

	if (!holding || !lock_set_overlap(&holding->set, request->range.start, request->range.end))
		return STATUS_OK;
	/* No limit: to unlock must work. */
	if (lock_set_splits(&holding->set, &request->range) && lock_set_prepare(&holding->set))
		return STATUS_NOLOCK;
	holding_put_range(t, holding, &request->range);
	serve(t, now, holding->inode);
	holding_put(t, holding);
	return STATUS_OK;
}

static bool is_valid(const struct lock_request *request)
{
	return (unsigned)request->kind < LOCK_KINDS && request->range.start <= request->range.end &&
	       request->range.end <= LOCK_END && request->range.type <= LOCK_TYPE_WRITE &&
	       (request->kind != LOCK_KIND_FLOCK ||
		(request->range.start == 0 && request->range.end == LOCK_END));
}

uint16_t lock_table_set(struct lock_table *t, struct instant now, struct session_id id,
			uint64_t number, const struct lock_request *request, bool closed)
{
	struct lock_session *session;
	struct holding *holding;
	uint16_t status;

	if (!is_valid(request) || number == 0)
		return STATUS_INVAL;
	session = session_make(t, id);
	if (!session)
		return STATUS_NOMEM;
	assert(!session->ended);
	/* PROTOCOL.md 10.2: done once. */
	if (session->answered[number % LOCK_WINDOW].id > number)
		return STATUS_SUPERSEDED;
	if (session->answered[number % LOCK_WINDOW].id == number)
		return session->answered[number % LOCK_WINDOW].status;
	if (request->range.type == LOCK_TYPE_NONE) {
		status = unlock(t, now, session, request);
	} else if (closed) {
		status = STATUS_PUSHBACK;
	} else {
		holding = holding_make(t, session, request);
		status = holding ? acquire(t, now, holding, request) : STATUS_NOLOCK;
		if (holding)
			holding_put(t, holding);
	}
	session->answered[number % LOCK_WINDOW].id = number;
	session->answered[number % LOCK_WINDOW].status = status;
	return status;
}

bool lock_table_test(const struct lock_table *t, struct session_id id,
		     const struct lock_request *request, struct lock_range *ret_range,
		     struct session_id *ret_session)
{
	const struct lock_inode *inode = map_get(&t->inodes, &request->handle);
	const struct holding *whose = NULL, *own;
	const struct lock_range *found;
	/* Stands for an owner that has nothing here. */
	struct lock_owner nobody = { .kind = request->kind };
	struct holding stand_in = { .owner = &nobody };

	if (!inode || !is_valid(request))
		return false;
	own = holding_find(t, id, &request->handle, request->kind, request->owner);
	stand_in.inode = (struct lock_inode *)inode;
	found = conflict_of(own ? own : &stand_in, &request->range, &whose);
	if (!found)
		return false;
	*ret_range = *found;
	*ret_session = whose->owner->session->id;
	return true;
}

void lock_table_settle(struct lock_table *t, struct instant now, struct session_id id,
		       uint64_t number, bool take)
{
	struct lock_session *session = map_get(&t->sessions, &id.value);
	struct waiter *waiter = session ? map_get(&session->waiters, &number) : NULL;
	struct lock_range range;
	struct holding *holding;

	if (!waiter)
		return;
	holding = waiter->holding;
	range = waiter->range;
	take = take && waiter->state == WAITER_OFFERED;
	waiter_free(t, waiter);
	if (take)
		holding_put_range(t, holding, &range);
	serve(t, now, holding->inode);
	holding_put(t, holding);
}

bool lock_table_reclaim(struct lock_table *t, struct session_id id,
			const struct lock_request *claim, bool grant)
{
	struct lock_session *session;
	struct holding *holding;
	bool granted;

	if (!is_valid(claim) || claim->range.type == LOCK_TYPE_NONE)
		return false;
	if (lock_table_holds(t, id, claim))
		return true;
	session = grant ? session_make(t, id) : NULL;
	holding = session ? holding_make(t, session, claim) : NULL;
	if (!holding)
		return false;
	granted = is_free(holding, &claim->range) && within_limits(t, session) &&
		  lock_set_prepare(&holding->set) == 0;
	if (granted)
		holding_put_range(t, holding, &claim->range);
	holding_put(t, holding);
	return granted;
}

/* ---- sessions ---- */

void lock_table_end(struct lock_table *t, struct instant now, struct session_id id, uint64_t mark)
{
	struct lock_session *session = map_get(&t->sessions, &id.value);

	if (!session)
		return;
	session->ended = true;
	session->mark = mark;
	LIST_FOR_EACH(at, &session->owner_list) {
		struct lock_owner *owner = LIST_ENTRY(at, struct lock_owner, in_session);
		struct list *first;

		/* The last waiter takes an owner that holds nothing with it. */
		while ((first = list_first(&owner->waiters))) {
			struct waiter *waiter = LIST_ENTRY(first, struct waiter, in_owner);
			struct holding *holding = waiter->holding;
			bool last = first->next == &owner->waiters;

			waiter_free(t, waiter);
			serve(t, now, holding->inode);
			holding_put(t, holding);
			if (last)
				break;
		}
	}
	if (list_empty(&session->owner_list))
		session_free(t, session);
	else
		list_append(&t->ended, &session->in_ended);
}

static void session_release(struct lock_table *t, struct instant now, struct lock_session *session)
{
	struct list *at;

	while ((at = list_first(&session->owner_list))) {
		struct lock_owner *owner = LIST_ENTRY(at, struct lock_owner, in_session);
		struct holding *holding =
			LIST_ENTRY(list_first(&owner->holdings), struct holding, in_owner);

		session->count -= holding->set.count;
		t->count -= holding->set.count;
		t->counters.held -= holding->set.count;
		lock_set_clear(&holding->set);
		list_remove(&holding->in_inode);
		list_append(&holding->inode->idle, &holding->in_inode);
		serve(t, now, holding->inode);
		holding_put(t, holding);
	}
	session_free(t, session);
}

void lock_table_release(struct lock_table *t, struct instant now, uint64_t mark)
{
	struct list *first;

	while ((first = list_first(&t->ended))) {
		struct lock_session *session = LIST_ENTRY(first, struct lock_session, in_ended);

		if (session->mark > mark)
			return;
		session_release(t, now, session);
	}
}

bool lock_table_has_ended(const struct lock_table *t)
{
	return !list_empty(&t->ended);
}

/* ---- offers ---- */

bool lock_table_has_offer(const struct lock_table *t)
{
	return !list_empty(&t->unsent);
}

bool lock_table_offer(struct lock_table *t, struct session_id *ret_session, uint64_t *ret_waiter,
		      uint16_t *ret_status)
{
	struct list *first = list_first(&t->unsent);
	struct waiter *waiter;

	if (!first)
		return false;
	list_remove(first);
	waiter = LIST_ENTRY(first, struct waiter, unsent);
	*ret_session = waiter->holding->owner->session->id;
	*ret_waiter = waiter->number;
	*ret_status = waiter->state == WAITER_REFUSED ? STATUS_DEADLOCK : STATUS_OK;
	return true;
}

void lock_table_resend(struct lock_table *t, struct session_id id)
{
	struct lock_session *session = map_get(&t->sessions, &id.value);

	if (!session)
		return;
	LIST_FOR_EACH(at, &session->offered) {
		struct waiter *waiter = LIST_ENTRY(at, struct waiter, in_session);

		list_remove(&waiter->unsent);
		list_append(&t->unsent, &waiter->unsent);
	}
}

struct instant lock_table_offered_since(const struct lock_table *t, struct session_id id)
{
	const struct lock_session *session = map_get(&t->sessions, &id.value);
	struct list *first = session ? list_first(&session->offered) : NULL;

	if (!first)
		return (struct instant){ UINT64_MAX };
	return LIST_ENTRY(first, struct waiter, in_session)->offered_at;
}

/* ---- looking ---- */

void lock_table_counters(const struct lock_table *t, struct lock_counters *ret_counters)
{
	*ret_counters = t->counters;
}

bool lock_table_holds(const struct lock_table *t, struct session_id session,
		      const struct lock_request *what)
{
	const struct holding *holding =
		holding_find(t, session, &what->handle, what->kind, what->owner);

	return holding && lock_set_covers(&holding->set, &what->range);
}

bool lock_table_backs(const struct lock_table *t, struct session_id session,
		      const struct lock_request *what)
{
	const struct holding *holding =
		holding_find(t, session, &what->handle, what->kind, what->owner);
	const struct lock_range byte = { what->range.start, what->range.start, 0,
					 what->range.type };

	if (!holding || lock_set_covers(&holding->set, &byte))
		return holding != NULL;
	for (const struct list *at = holding->inode->offered.next; at != &holding->inode->offered;
	     at = at->next) {
		const struct waiter *waiter = LIST_ENTRY(at, const struct waiter, in_inode);

		if (waiter->holding == holding && waiter->range.start <= byte.start &&
		    waiter->range.end >= byte.end && waiter->range.type >= byte.type)
			return true;
	}
	return false;
}

/* Nothing that excludes each other is held or offered, and nobody waits for what is free. */
static void check_inode(const struct lock_inode *inode)
{
	const struct list *at;

	assert(!list_empty(&inode->holdings) || !list_empty(&inode->idle));
	for (at = inode->idle.next; at != &inode->idle; at = at->next) {
		const struct holding *holding = LIST_ENTRY(at, const struct holding, in_inode);

		assert(holding->inode == inode);
		assert(holding->set.count == 0 && holding->waiter_count);
		assert(holding->set.reserved == holding->waiter_count);
	}
	for (at = inode->holdings.next; at != &inode->holdings; at = at->next) {
		const struct holding *holding = LIST_ENTRY(at, const struct holding, in_inode);

		assert(holding->inode == inode);
		assert(holding->set.count);
		assert(lock_set_valid(&holding->set));
		assert(holding->set.reserved == holding->waiter_count);
		for (uint32_t i = 0; i < holding->set.count; i++)
			assert(is_free(holding, &holding->set.ranges[i]));
	}
	for (at = inode->offered.next; at != &inode->offered; at = at->next) {
		const struct waiter *waiter = LIST_ENTRY(at, const struct waiter, in_inode);

		assert(waiter->state == WAITER_OFFERED);
		assert(is_free(waiter->holding, &waiter->range));
	}
	for (at = inode->waiters.next; at != &inode->waiters; at = at->next) {
		const struct waiter *waiter = LIST_ENTRY(at, const struct waiter, in_inode);

		assert(waiter->state == WAITER_WAITING);
		assert(!is_free(waiter->holding, &waiter->range));
	}
}

static uint64_t check_session(const struct lock_session *session)
{
	uint64_t count = session->waiters.count;

	for (const struct list *at = session->owner_list.next; at != &session->owner_list;
	     at = at->next) {
		const struct lock_owner *owner = LIST_ENTRY(at, const struct lock_owner, in_session);

		assert(owner->session == session && !list_empty(&owner->holdings));
		for (const struct list *h = owner->holdings.next; h != &owner->holdings;
		     h = h->next)
			count += LIST_ENTRY(h, const struct holding, in_owner)->set.count;
	}
	assert(count == session->count);
	assert(!session->ended || session->waiters.count == 0);
	return count;
}

void lock_table_check_invariants(const struct lock_table *t)
{
	const struct lock_session *session;
	const struct lock_inode *inode;
	uint64_t count = 0;
	size_t cursor = 0;

	while ((inode = map_next(&t->inodes, &cursor)))
		check_inode(inode);
	cursor = 0;
	while ((session = map_next(&t->sessions, &cursor)))
		count += check_session(session);
	assert(count == t->count);
	assert(t->counters.held + t->counters.waiting + t->counters.offered <= count);
}

/* Everything goes, without serving anybody. */
void lock_table_destroy(struct lock_table *t)
{
	struct lock_session *session;
	size_t cursor = 0;

	if (!t)
		return;
	while ((session = map_next(&t->sessions, &cursor))) {
		LIST_FOR_EACH(at, &session->owner_list) {
			struct lock_owner *owner = LIST_ENTRY(at, struct lock_owner, in_session);

			LIST_FOR_EACH(w, &owner->waiters)
				release(t, LIST_ENTRY(w, struct waiter, in_owner),
					sizeof(struct waiter));
			LIST_FOR_EACH(h, &owner->holdings) {
				struct holding *holding = LIST_ENTRY(h, struct holding, in_owner);

				lock_set_finish(&holding->set);
				release(t, holding, sizeof(*holding));
			}
			release(t, owner, sizeof(*owner));
		}
		for (unsigned kind = 0; kind < LOCK_KINDS; kind++)
			map_finish(&session->owners[kind]);
		map_finish(&session->waiters);
		release(t, session, sizeof(*session));
	}
	cursor = 0;
	for (struct lock_inode *inode; (inode = map_next(&t->inodes, &cursor));)
		release(t, inode, sizeof(*inode));
	map_finish(&t->sessions);
	map_finish(&t->inodes);
	release(t, t, sizeof(*t));
}
