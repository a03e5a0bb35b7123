#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "fs/origin/service_private.h"

#define REPLACED_KEPT_MS 2000u
#define REPLACED_COUNT_MAX 4096u /* beyond it they go at once, as if this object was not there */
#define ROOM_TRIES_MAX	   50u	 /* for what others have locked */
#define ROOM_TRY_US	   1000
#define ROOM_WAIT_MS	   300u /* in all, of one modification */
#define ROOM_LOOK_MS	   5u

struct replaced {
	UT_hash_handle hh; /* in the order in which they came */
	struct handle handle;
	struct instant until;
};

bool service_replaced_keep(struct service *s, const struct handle *handle)
{
	struct replaced *r = NULL;
	bool kept = false;

	pthread_mutex_lock(&s->lock);
	HASH_FIND(hh, s->replaced, handle->bytes, handle->length, r);
	if (r) {
		HASH_DEL(s->replaced, r); /* to the end, with its new time */
	} else if (HASH_COUNT(s->replaced) < REPLACED_COUNT_MAX) {
		r = (struct replaced *)calloc(1, sizeof(*r));
	}
	if (r) {
		r->handle = *handle;
		r->until = instant_add(service_now(), duration_ms(REPLACED_KEPT_MS));
		HASH_ADD_KEYPTR(hh, s->replaced, r->handle.bytes, r->handle.length, r);
		kept = true;
	}
	pthread_mutex_unlock(&s->lock);
	return kept;
}

bool service_replaced_is_kept(const struct service *s, const struct handle *handle)
{
	struct replaced *r = NULL;

	HASH_FIND(hh, s->replaced, handle->bytes, handle->length, r);
	return r && instant_before(service_now(), r->until);
}

void service_replaced_tick(struct service *s, struct instant now)
{
	struct replaced *r, *next;

	HASH_ITER(hh, s->replaced, r, next) {
		if (instant_before(now, r->until))
			break;
		HASH_DEL(s->replaced, r);
		service_own_work(s, TASK_ORPHAN, &r->handle);
		free(r);
	}
}

bool service_make_room(struct service *s, struct store *store, uint64_t reaped)
{
	struct instant now = service_now();
	struct replaced *r, *next;
	bool grace, busy;

	pthread_mutex_lock(&s->lock);
	HASH_ITER(hh, s->replaced, r, next)
		if (instant_before(now, r->until) && store_made(store, &r->handle))
			r->until = now; /* the timer takes it out */
	grace = authority_grace(s->authority, now).ns > 0;
	pthread_mutex_unlock(&s->lock);
	/* In grace not everybody has said yet what is open. */
	for (unsigned i = 0; !grace && i < ROOM_TRIES_MAX; i++) {
		atomic_fetch_add(&s->reaped, store_reap_orphans(store, service_orphan_used, s,
								&busy));
		/* Who has it locked may be removing it this moment. */
		if (!busy || atomic_load(&s->reaped) != reaped)
			break;
		(void)usleep(ROOM_TRY_US);
	}
	return atomic_load(&s->reaped) != reaped;
}

bool service_room_may_come(struct task *t)
{
	struct instant now = service_now();

	if (!t->room_until.ns)
		t->room_until = instant_add(now, duration_ms(ROOM_WAIT_MS));
	return instant_before(now, t->room_until) && store_has_orphans(t->store);
}

void service_wait_for_room(struct task *t)
{
	struct service *s = t->service;

	service_lock(s);
	t->reaped = atomic_load(&s->reaped);
	if (s->stopping) {
		t->room_until = service_now();
		(void)task_enqueue(t, true);
	} else {
		t->next = s->roomless;
		s->roomless = t;
	}
	(void)service_unlock(s, NULL);
}

struct instant service_room_timer(const struct service *s)
{
	return s->roomless ? instant_add(service_now(), duration_ms(ROOM_LOOK_MS)) :
			     (struct instant){ UINT64_MAX };
}

void service_room_tick(struct service *s, struct instant now)
{
	struct task **at = &s->roomless, *t;

	while ((t = *at)) {
		if (instant_before(now, t->room_until) && !s->stopping &&
		    atomic_load(&s->reaped) == t->reaped) {
			at = &t->next;
			continue;
		}
		*at = t->next;
		(void)task_enqueue(t, true); /* urgent work is always taken */
	}
}

void service_replaced_end(struct service *s)
{
	struct replaced *r, *next;

	HASH_ITER(hh, s->replaced, r, next) {
		HASH_DEL(s->replaced, r);
		service_remove_orphan(s, &r->handle);
		free(r);
	}
}
