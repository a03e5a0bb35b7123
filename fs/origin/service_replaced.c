#include <stdlib.h>

#include "fs/origin/service_private.h"

#define REPLACED_KEPT_MS 2000u
#define REPLACED_COUNT_MAX 4096u /* beyond it they go at once, as if this object was not there */

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
	return r != NULL;
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

void service_replaced_end(struct service *s)
{
	struct replaced *r, *next;

	HASH_ITER(hh, s->replaced, r, next) {
		HASH_DEL(s->replaced, r);
		service_remove_orphan(s, &r->handle);
		free(r);
	}
}
