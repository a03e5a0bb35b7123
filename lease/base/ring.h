/*
 * ring.h - list.h for the objects of a pool: circular, doubly linked, by numbers of four bytes.
 *
 * The head is the number of the first member, 0 when there is none, and belongs to the caller. A member
 * has a struct ring somewhere inside, at `offset`, and is in one list for as long as that is used: there
 * is no such thing as a member that is in none, and who takes one out learns its number, since its
 * neighbours know it. One caller at a time.
 *
 *	for (at = first; at; at = ring_next(&object_of(at)->links, first)) ...
 */
#ifndef LEASE_BASE_RING_H
#define LEASE_BASE_RING_H

#include "lease/base/numbered.h"

struct ring {
	uint32_t next;
	uint32_t prev;
};

static inline struct ring *ring_of(const struct numbered *pool, size_t offset, uint32_t number)
{
	return (struct ring *)((char *)numbered_at(pool, number) + offset);
}

/* The one behind `at` in the list whose first is `first`; 0 at the end. */
static inline uint32_t ring_next(const struct ring *at, uint32_t first)
{
	return at->next == first ? 0 : at->next;
}

static inline void ring_append(const struct numbered *pool, size_t offset, uint32_t *first, uint32_t number)
{
	struct ring *at = ring_of(pool, offset, number);

	if (*first) {
		struct ring *head = ring_of(pool, offset, *first);

		at->next = *first;
		at->prev = head->prev;
		ring_of(pool, offset, head->prev)->next = number;
		head->prev = number;
	} else {
		at->next = at->prev = number;
		*first = number;
	}
}

/* The number of a member. */
static inline uint32_t ring_number(const struct numbered *pool, size_t offset, const struct ring *at)
{
	return ring_of(pool, offset, at->next)->prev;
}

/* Takes a member out; returns its number. */
static inline uint32_t ring_remove(const struct numbered *pool, size_t offset, uint32_t *first,
				   const struct ring *at)
{
	uint32_t number = ring_number(pool, offset, at);

	if (at->next == number) {
		*first = 0;
		return number;
	}
	ring_of(pool, offset, at->next)->prev = at->prev;
	ring_of(pool, offset, at->prev)->next = at->next;
	if (*first == number)
		*first = at->next;
	return number;
}

#endif
