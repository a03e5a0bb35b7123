#include "lease/base/range_set.h"

#include <assert.h>
#include <errno.h>

void range_set_init(struct range_set *s, const struct allocator *allocator, uint32_t count_max)
{
	assert(count_max > 0);
	*s = (struct range_set){ .allocator = allocator, .count_max = count_max };
}

void range_set_finish(struct range_set *s)
{
	if (s->ranges)
		s->allocator->resize(s->allocator->context, s->ranges,
				     s->capacity * sizeof(*s->ranges), 0);
	s->ranges = NULL;
	s->count = 0;
	s->capacity = 0;
	s->bytes = 0;
}

void range_set_clear(struct range_set *s)
{
	s->count = 0;
	s->bytes = 0;
}

/* The index of the first range that ends after `offset`; count when there is none. */
static uint32_t first_ending_after(const struct range_set *s, uint64_t offset)
{
	uint32_t low = 0, high = s->count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (s->ranges[middle].end > offset)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

/* Room for one range more than there are. One above count_max, so that give_up() can choose. */
static int grow(struct range_set *s)
{
	uint32_t capacity = s->capacity ? s->capacity * 2 : 4;
	struct range *ranges;

	if (s->count < s->capacity)
		return 0;
	if (capacity > s->count_max + 1)
		capacity = s->count_max + 1;
	ranges = s->allocator->resize(s->allocator->context, s->ranges,
				      s->capacity * sizeof(*ranges), capacity * sizeof(*ranges));
	if (!ranges)
		return -ENOMEM;
	s->ranges = ranges;
	s->capacity = capacity;
	return 0;
}

static void delete_at(struct range_set *s, uint32_t index, uint32_t count)
{
	memmove(s->ranges + index, s->ranges + index + count,
		(s->count - index - count) * sizeof(*s->ranges));
	s->count -= count;
}

static void insert_at(struct range_set *s, uint32_t index, struct range range)
{
	memmove(s->ranges + index + 1, s->ranges + index, (s->count - index) * sizeof(*s->ranges));
	s->ranges[index] = range;
	s->count++;
}

/* Holds the bound: the smallest range goes. Linear, and only at the bound. */
static void give_up(struct range_set *s)
{
	uint32_t smallest = 0;

	if (s->count <= s->count_max)
		return;
	for (uint32_t i = 1; i < s->count; i++) {
		const struct range *a = &s->ranges[i], *b = &s->ranges[smallest];

		if (a->end - a->start < b->end - b->start)
			smallest = i;
	}
	s->bytes -= s->ranges[smallest].end - s->ranges[smallest].start;
	delete_at(s, smallest, 1);
}

int range_set_add(struct range_set *s, uint64_t start, uint64_t end)
{
	/* What ends exactly at `start` is joined as well, hence start - 1. */
	uint32_t first = start ? first_ending_after(s, start - 1) : 0;
	uint32_t last = first;
	struct range range = { start, end };

	if (start >= end)
		return 0;
	for (; last < s->count && s->ranges[last].start <= end; last++) {
		const struct range *r = &s->ranges[last];

		s->bytes -= r->end - r->start;
		range.start = r->start < range.start ? r->start : range.start;
		range.end = r->end > range.end ? r->end : range.end;
	}
	if (last > first) {
		s->ranges[first] = range;
		delete_at(s, first + 1, last - first - 1);
	} else {
		int rc = grow(s);

		if (rc < 0)
			return rc;
		insert_at(s, first, range);
	}
	s->bytes += range.end - range.start;
	give_up(s);
	return 0;
}

/* [start, end) lies inside the range at `index`, with something left on both sides. */
static void split(struct range_set *s, uint32_t index, uint64_t start, uint64_t end)
{
	struct range *r = &s->ranges[index];
	struct range low = { r->start, start }, high = { end, r->end };

	s->bytes -= end - start;
	if (grow(s) < 0) {
		bool keep_low = low.end - low.start >= high.end - high.start;
		struct range given_up = keep_low ? high : low;

		s->bytes -= given_up.end - given_up.start;
		s->ranges[index] = keep_low ? low : high;
		return;
	}
	s->ranges[index] = low;
	insert_at(s, index + 1, high);
	give_up(s);
}

void range_set_remove(struct range_set *s, uint64_t start, uint64_t end)
{
	uint32_t index = first_ending_after(s, start), inside;

	if (start >= end || index == s->count || s->ranges[index].start >= end)
		return;
	if (s->ranges[index].start < start) {
		struct range *r = &s->ranges[index];

		if (r->end > end) {
			split(s, index, start, end);
			return;
		}
		s->bytes -= r->end - start;
		r->end = start;
		index++;
	}
	for (inside = index; inside < s->count && s->ranges[inside].end <= end; inside++)
		s->bytes -= s->ranges[inside].end - s->ranges[inside].start;
	if (inside < s->count && s->ranges[inside].start < end) {
		s->bytes -= end - s->ranges[inside].start;
		s->ranges[inside].start = end;
	}
	if (inside > index)
		delete_at(s, index, inside - index);
}

uint64_t range_set_run(const struct range_set *s, uint64_t offset)
{
	uint32_t index = first_ending_after(s, offset);

	if (index == s->count || s->ranges[index].start > offset)
		return 0;
	return s->ranges[index].end - offset;
}

bool range_set_covers(const struct range_set *s, uint64_t start, uint64_t end)
{
	return start >= end || range_set_run(s, start) >= end - start;
}

bool range_set_gap(const struct range_set *s, uint64_t offset, uint64_t end, uint64_t *ret_start,
		   uint64_t *ret_end)
{
	uint32_t index;

	offset += range_set_run(s, offset);
	if (offset >= end)
		return false;
	index = first_ending_after(s, offset);
	*ret_start = offset;
	*ret_end = index < s->count && s->ranges[index].start < end ? s->ranges[index].start : end;
	return true;
}

bool range_set_valid(const struct range_set *s)
{
	uint64_t bytes = 0;

	if (s->count > s->count_max || s->count > s->capacity)
		return false;
	for (uint32_t i = 0; i < s->count; i++) {
		if (s->ranges[i].start >= s->ranges[i].end)
			return false;
		if (i > 0 && s->ranges[i - 1].end >= s->ranges[i].start)
			return false;
		bytes += s->ranges[i].end - s->ranges[i].start;
	}
	return bytes == s->bytes;
}
