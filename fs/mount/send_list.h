/*
 * send_list.h - lists of what a session still has to tell its origin, in batches that are repeated until
 * they are answered. Under mount->lock.
 */
#ifndef FS_MOUNT_SEND_LIST_H
#define FS_MOUNT_SEND_LIST_H

#include <stdlib.h>
#include <string.h>

/* A list that grows; entries [0, sent) are in the message in flight. */
#define LIST(type)                                                                              \
	struct {                                                                                \
		struct type *items;                                                             \
		size_t count, capacity, sent;                                                   \
	}

static inline void *list_add(void **items, size_t *count, size_t *capacity, size_t element)
{
	if (*count == *capacity) {
		size_t want = *capacity ? *capacity * 2 : 64;
		void *bigger = reallocarray(*items, want, element);

		if (!bigger)
			return NULL;
		*items = bigger;
		*capacity = want;
	}
	return (char *)*items + (*count)++ * element;
}

#define LIST_ADD(list)                                                                          \
	((__typeof__((list)->items))list_add((void **)&(list)->items, &(list)->count,           \
					     &(list)->capacity, sizeof(*(list)->items)))

/* The first `sent` entries were answered. */
#define LIST_DONE(list)                                                                         \
	do {                                                                                    \
		(list)->count -= (list)->sent;                                                  \
		if ((list)->count > 0) /* else there may be no items, and no place for them */  \
			memmove((list)->items, (list)->items + (list)->sent,                    \
				(list)->count * sizeof(*(list)->items));                        \
		(list)->sent = 0;                                                               \
	} while (0)

#endif
