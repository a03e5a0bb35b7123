#include "fs/origin/flow.h"

#define RUN_COUNT_MIN 3u /* two in a row happen to random readers, too */
#define SLACK_LENGTHS 4u

void flow_init(struct flow *f, uint64_t ahead_bytes, uint64_t step_bytes)
{
	f->ahead_bytes = ahead_bytes;
	f->step_bytes = step_bytes;
	f->clock = 0;
}

static bool continues(const struct flow_run *run, uint64_t offset, uint64_t length)
{
	uint64_t distance = offset > run->next ? offset - run->next : run->next - offset;

	return distance / SLACK_LENGTHS < length || distance == 0;
}

/* The run that the request goes on with, or a new one in place of the one used least recently. */
static struct flow_run *find(struct flow *f, uint64_t key, uint64_t offset, uint64_t length)
{
	struct flow_run *set = f->runs[(key ^ key >> 32) % FLOW_SETS];
	struct flow_run *oldest = set;

	for (unsigned i = 0; i < FLOW_WAYS; i++) {
		if (set[i].used && set[i].key == key && continues(&set[i], offset, length))
			return &set[i];
		/* As a distance, so that the clock may wrap; what is free is older than all. */
		if (oldest->used &&
		    (!set[i].used || f->clock - set[i].used > f->clock - oldest->used))
			oldest = &set[i];
	}
	*oldest = (struct flow_run){ .key = key, .next = offset, .told = offset };
	return oldest;
}

bool flow_note(struct flow *f, uint64_t key, uint64_t offset, uint64_t length, uint64_t *ret_start,
	       uint64_t *ret_end)
{
	uint64_t end = offset + length;
	struct flow_run *run;
	uint64_t start;

	if (length == 0 || end < offset || end > INT64_MAX - f->ahead_bytes)
		return false;
	run = find(f, key, offset, length);
	if (++f->clock == 0)
		f->clock = 1;
	run->used = f->clock;
	if (end <= run->next)
		return false; /* one that was overtaken */
	run->next = end;
	if (run->count < RUN_COUNT_MIN)
		run->count++;
	start = f->ahead_bytes && run->told < end ? end : run->told;
	end += f->ahead_bytes;
	if (run->count < RUN_COUNT_MIN || end < start + f->step_bytes)
		return false;
	run->told = end;
	*ret_start = start;
	*ret_end = end;
	return true;
}
