/*
 * list.h - an intrusive, circular, doubly linked list.
 *
 * A struct list is a head or a member. Members live inside the caller's objects; nothing is owned
 * or allocated. A member that is in no list points to itself, so list_remove() may be repeated and
 * list_linked() answers. One caller at a time.
 */
#ifndef LEASE_BASE_LIST_H
#define LEASE_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list {
	struct list *next;
	struct list *prev;
};

/* The object of `type` whose field `member` is at `pointer`. */
#define LIST_ENTRY(pointer, type, member) ((type *)((char *)(pointer) - offsetof(type, member)))

/* `at` may be removed, and nothing else, inside the loop. */
#define LIST_FOR_EACH(at, head)                                                                 \
	for (struct list *at = (head)->next, *at##_next = at->next; at != (head);               \
	     at = at##_next, at##_next = at->next)

static inline void list_init(struct list *list)
{
	list->next = list;
	list->prev = list;
}

static inline bool list_linked(const struct list *list)
{
	return list->next != list;
}

static inline bool list_empty(const struct list *head)
{
	return head->next == head;
}

/* NULL when empty. */
static inline struct list *list_first(const struct list *head)
{
	return head->next == head ? NULL : head->next;
}

static inline void list_insert_after(struct list *at, struct list *member)
{
	member->prev = at;
	member->next = at->next;
	at->next->prev = member;
	at->next = member;
}

static inline void list_append(struct list *head, struct list *member)
{
	list_insert_after(head->prev, member);
}

static inline void list_remove(struct list *member)
{
	member->prev->next = member->next;
	member->next->prev = member->prev;
	list_init(member);
}

#endif
