#include "lease/base/lock_set.h"

#include <assert.h>
#include <errno.h>

/* What one change can add: it splits one range, and comes between. */
#define CHANGE_RANGES 2u

void lock_set_init(struct lock_set *s, const struct allocator *allocator)
{
	*s = (struct lock_set){ .allocator = allocator };
}

void lock_set_finish(struct lock_set *s)
{
	if (s->ranges)
		s->allocator->resize(s->allocator->context, s->ranges,
				     s->capacity * sizeof(*s->ranges), 0);
	*s = (struct lock_set){ .allocator = s->allocator };
}

void lock_set_clear(struct lock_set *s)
{
	s->count = 0;
}

static int make_room(struct lock_set *s, uint64_t need)
{
	uint64_t capacity = s->capacity ? s->capacity : 4;
	struct lock_range *ranges;

	if (need <= s->capacity)
		return 0;
	while (capacity < need)
		capacity *= 2;
	if (capacity > UINT32_MAX)
		return -ENOMEM;
	ranges = s->allocator->resize(s->allocator->context, s->ranges,
				      s->capacity * sizeof(*ranges), capacity * sizeof(*ranges));
	if (!ranges)
		return -ENOMEM;
	s->ranges = ranges;
	s->capacity = (uint32_t)capacity;
	return 0;
}

int lock_set_prepare(struct lock_set *s)
{
	return make_room(s, s->count + (uint64_t)CHANGE_RANGES * (s->reserved + 1));
}

int lock_set_reserve(struct lock_set *s)
{
	int error = lock_set_prepare(s);

	if (!error)
		s->reserved++;
	return error;
}

void lock_set_unreserve(struct lock_set *s)
{
	assert(s->reserved > 0);
	s->reserved--;
}

/* The index of the first range that ends at or after `offset`; count when there is none. */
static uint32_t first_ending_from(const struct lock_set *s, uint64_t offset)
{
	uint32_t low = 0, high = s->count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (s->ranges[middle].end >= offset)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

/* Ranges [at, at + old) become the `count` ones of `with`. */
static void replace(struct lock_set *s, uint32_t at, uint32_t old, const struct lock_range *with,
		    uint32_t count)
{
	assert(s->count - old + count <= s->capacity);
	if (s->count > at + old)
		memmove(s->ranges + at + count, s->ranges + at + old,
			(s->count - at - old) * sizeof(*s->ranges));
	if (count)
		memcpy(s->ranges + at, with, count * sizeof(*with));
	s->count = s->count - old + count;
}

void lock_set_put(struct lock_set *s, const struct lock_range *range)
{
	struct lock_range with[3], middle = *range;
	/* A neighbour that touches is looked at, too: it may merge. */
	uint32_t first = first_ending_from(s, range->start ? range->start - 1 : 0), last = first;
	uint32_t count = 0;
	struct lock_range right;
	bool has_right = false;

	assert(range->start <= range->end && range->end <= LOCK_END);
	for (; last < s->count && s->ranges[last].start <= range->end + 1; last++) {
		struct lock_range old = s->ranges[last];

		if (old.type == range->type) {
			if (old.start < middle.start)
				middle.start = old.start;
			if (old.end > middle.end)
				middle.end = old.end;
			continue;
		}
		if (old.start < range->start) {
			with[count] = old;
			if (old.end >= range->start)
				with[count].end = range->start - 1;
			count++;
		}
		if (old.end > range->end) {
			right = old;
			if (old.start <= range->end)
				right.start = range->end + 1;
			has_right = true;
		}
	}
	if (middle.type != LOCK_TYPE_NONE)
		with[count++] = middle;
	if (has_right)
		with[count++] = right;
	replace(s, first, last - first, with, count);
}

bool lock_set_splits(const struct lock_set *s, const struct lock_range *range)
{
	const struct lock_range *first = lock_set_overlap(s, range->start, range->end);

	return first && first->start < range->start && first->end > range->end;
}

int lock_set_copy(struct lock_set *to, const struct lock_set *from)
{
	int error = make_room(to, from->count + (uint64_t)CHANGE_RANGES * (to->reserved + 1));

	if (error)
		return error;
	if (from->count)
		memcpy(to->ranges, from->ranges, from->count * sizeof(*to->ranges));
	to->count = from->count;
	return 0;
}

const struct lock_range *lock_set_conflict(const struct lock_set *s, const struct lock_range *range)
{
	for (uint32_t i = first_ending_from(s, range->start);
	     i < s->count && s->ranges[i].start <= range->end; i++)
		if (lock_conflicts(&s->ranges[i], range))
			return &s->ranges[i];
	return NULL;
}

const struct lock_range *lock_set_overlap(const struct lock_set *s, uint64_t start, uint64_t end)
{
	uint32_t i = first_ending_from(s, start);

	return i < s->count && s->ranges[i].start <= end ? &s->ranges[i] : NULL;
}

bool lock_set_covers(const struct lock_set *s, const struct lock_range *range)
{
	uint64_t next = range->start;

	for (uint32_t i = first_ending_from(s, range->start);
	     i < s->count && s->ranges[i].start <= next && s->ranges[i].type >= range->type; i++) {
		if (s->ranges[i].end >= range->end)
			return true;
		next = s->ranges[i].end + 1;
	}
	return false;
}

bool lock_set_valid(const struct lock_set *s)
{
	for (uint32_t i = 0; i < s->count; i++) {
		const struct lock_range *r = &s->ranges[i];

		if (r->start > r->end || r->end > LOCK_END || r->type == LOCK_TYPE_NONE)
			return false;
		if (i == 0)
			continue;
		if (r[-1].end >= r->start || (r[-1].end + 1 == r->start && r[-1].type == r->type))
			return false;
	}
	return s->count + CHANGE_RANGES * s->reserved <= s->capacity || s->reserved == 0;
}
