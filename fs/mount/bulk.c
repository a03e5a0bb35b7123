#include "fs/mount/bulk.h"

#include <errno.h>
#include <stdlib.h>

static _Thread_local struct fuse_buf *received; /* by this thread */

void bulk_receive(struct mount *m, struct fuse_buf *buffer)
{
	received = buffer;
	for (unsigned i = 0; i < BULK_SPARE_COUNT && !buffer->mem; i++)
		buffer->mem = atomic_exchange(&m->bulk_spare[i], NULL);
}

static bool is_received(const void *data, size_t length)
{
	const char *start = received ? received->mem : NULL;

	return start && (const char *)data >= start &&
	       (const char *)data + length <= start + received->size;
}

int bulk_set(struct call *call, const void *data, size_t length)
{
	if (length >= BULK_KEEP_BYTES_MIN && is_received(data, length)) {
		call->bulk_memory = received->mem;
		received->mem = NULL;
		call->bulk = (void *)data;
	} else {
		call->bulk = call->bulk_memory = malloc(length ? length : 1);
		if (!call->bulk)
			return -ENOMEM;
		if (length)
			memcpy(call->bulk, data, length);
	}
	call->bulk_length = length;
	return 0;
}

void bulk_drop(struct mount *m, struct call *call)
{
	bool spare = call->bulk != call->bulk_memory;
	void *none;

	/* With --memory there is none to keep. */
	for (unsigned i = 0; spare && i < BULK_SPARE_COUNT && !m->memory; i++) {
		none = NULL;
		if (atomic_compare_exchange_strong(&m->bulk_spare[i], &none, call->bulk_memory)) {
			call->bulk_memory = NULL;
			break;
		}
	}
	free(call->bulk_memory);
	call->bulk = call->bulk_memory = NULL;
	call->bulk_length = 0;
}

void bulk_finish(struct mount *m)
{
	for (unsigned i = 0; i < BULK_SPARE_COUNT; i++)
		free(atomic_exchange(&m->bulk_spare[i], NULL));
}
