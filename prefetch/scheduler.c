#include "prefetch/scheduler.h"

void scheduler_demand(struct scheduler *s, struct instant now)
{
	s->demand_at = now;
	s->demanded = true;
}

/* The later one of two wishes. */
static bool behind(const struct wish *a, const struct wish *b)
{
	if (a->intent.priority != b->intent.priority)
		return a->intent.priority < b->intent.priority;
	if (a->class != b->class)
		return a->class > b->class;
	if (a->intent.distance != b->intent.distance)
		return a->intent.distance > b->intent.distance;
	return a->order > b->order;
}

static bool same(const struct intent *a, const struct intent *b)
{
	return a->type == b->type && a->inode == b->inode && a->directory == b->directory &&
	       a->offset == b->offset && a->length == b->length && a->count == b->count &&
	       a->sorted == b->sorted && a->name_length == b->name_length &&
	       memcmp(a->name, b->name, a->name_length) == 0;
}

struct wish *scheduler_add(struct scheduler *s, const struct intent *intent, enum wish_class class,
			   uint64_t who)
{
	struct wish *place = NULL, *last = NULL;
	struct wish wish = { .class = class, .who = who };

	for (unsigned i = 0; i < SCHEDULER_WISHES_MAX; i++) {
		struct wish *at = &s->wishes[i];

		if (at->order == 0)
			place = place ? place : at;
		if (at->order && at->class == class && at->who == who && same(&at->intent, intent)) {
			if (at->intent.priority < intent->priority)
				at->intent.priority = intent->priority;
			return NULL;
		}
		if (at->order && (!last || behind(at, last)))
			last = at;
	}
	wish.intent = *intent;
	wish.order = ++s->orders;
	if (!place && (s->dropped++, behind(last, &wish)))
		place = last;
	if (place)
		*place = wish;
	return place;
}

struct wish *scheduler_next(struct scheduler *s, struct instant now)
{
	struct wish *first = NULL;

	for (unsigned i = 0; i < SCHEDULER_WISHES_MAX; i++)
		if (s->wishes[i].order != 0 && !instant_before(now, s->wishes[i].not_before) &&
		    (!first || behind(first, &s->wishes[i])))
			first = &s->wishes[i];
	return first;
}

void scheduler_remove(struct scheduler *s, struct wish *wish)
{
	(void)s;
	wish->order = 0;
}

void scheduler_cancel(struct scheduler *s, uint64_t inode)
{
	for (unsigned i = 0; i < SCHEDULER_WISHES_MAX; i++)
		if (s->wishes[i].intent.inode == inode || s->wishes[i].intent.directory == inode)
			s->wishes[i].order = 0;
}

bool wish_is_asked(const struct wish *wish, uint64_t inode, uint64_t start, uint64_t end)
{
	const struct intent *intent = &wish->intent;

	if (wish->class != WISH_ASKED)
		return false;
	if (intent->type != INTENT_RANGE)
		return intent->inode == inode || intent->directory == inode;
	return intent->inode == inode && intent->offset < end &&
	       start - (start < intent->offset ? start : intent->offset) < intent->length;
}

bool scheduler_asked(const struct scheduler *s, uint64_t inode, uint64_t start, uint64_t end)
{
	for (unsigned i = 0; i < SCHEDULER_WISHES_MAX; i++)
		if (s->wishes[i].order && wish_is_asked(&s->wishes[i], inode, start, end))
			return true;
	return false;
}

uint32_t scheduler_asked_count(const struct scheduler *s)
{
	uint32_t count = 0;

	for (unsigned i = 0; i < SCHEDULER_WISHES_MAX; i++)
		count += s->wishes[i].order && s->wishes[i].class == WISH_ASKED;
	return count;
}

uint32_t scheduler_waiting(const struct scheduler *s)
{
	uint32_t count = 0;

	for (unsigned i = 0; i < SCHEDULER_WISHES_MAX; i++)
		count += s->wishes[i].order != 0;
	return count;
}

uint64_t scheduler_window(const struct scheduler *s)
{
	uint64_t most = 0, shortest = 0, of = 0, product;

	if (s->sample >= SCHEDULER_SAMPLES - SCHEDULER_PROBES)
		return SCHEDULER_BYTES_MIN;
	for (unsigned i = 0; i < SCHEDULER_SAMPLES; i++) {
		if (s->samples[i].bytes > most)
			most = s->samples[i].bytes;
		if (s->samples[i].ns && (!shortest || s->samples[i].ns < shortest)) {
			shortest = s->samples[i].ns;
			of = s->samples[i].of;
		}
	}
	product = most * (shortest / NS_PER_US) / (SCHEDULER_SAMPLE.ns / NS_PER_US);
	/* The transfer itself took some of that time. */
	product = product > of ? product - of : 0;
	product += product / SCHEDULER_MORE_SHARE + SCHEDULER_BYTES_MORE;
	if (product < SCHEDULER_BYTES_MIN)
		return SCHEDULER_BYTES_MIN;
	return product < s->bytes_max ? product : s->bytes_max;
}

bool scheduler_may(const struct scheduler *s, struct instant now, uint64_t bytes)
{
	bool demand = s->demanded && instant_until(s->demand_at, now).ns < SCHEDULER_DEMAND.ns;
	uint64_t most = demand ? scheduler_window(s) : s->bytes_max;

	if (s->count == 0)
		return true;
	return s->count < s->count_max && s->bytes + bytes <= most;
}

void scheduler_sent(struct scheduler *s, uint64_t bytes)
{
	s->bytes += bytes;
	s->count++;
}

void scheduler_ended(struct scheduler *s, struct instant now, struct instant sent_at, uint64_t bytes,
		     uint64_t arrived)
{
	uint64_t took = instant_until(sent_at, now).ns;

	s->bytes -= bytes;
	s->count--;
	if (arrived == 0)
		return;
	if (instant_until(s->sample_at, now).ns >= SCHEDULER_SAMPLE.ns) {
		s->sample = (s->sample + 1) % SCHEDULER_SAMPLES;
		s->samples[s->sample].bytes = 0;
		s->samples[s->sample].ns = 0;
		s->sample_at = now;
	}
	s->samples[s->sample].bytes += arrived;
	if (!s->samples[s->sample].ns || took < s->samples[s->sample].ns) {
		s->samples[s->sample].ns = took ? took : 1;
		s->samples[s->sample].of = bytes;
	}
}
