/*
 * sequential.c - what follows in a file that is read in order.
 *
 * What is wished for ahead of a reader is at most as much as it has read in order so far (twice that
 * when it began at the start of the file), or half of what reads in order are long in that file: who
 * stops has cost as much again, once. What that adds up to in a file is bounded, see predict_may_guess().
 */
#include "prefetch/predictors_private.h"

/* Reads in a row before anything is wished for. */
#define READS_MIN 2
/* At the start of a file one is enough when it is this large: the kernel's readahead, or cat. */
#define FIRST_READ (128 * KIB)
/* After so many in a file, it is known how long they are. */
#define RUNS_TYPICAL 8
/* Not less at a time from the start of a file: what a round trip costs anyway. */
#define WINDOW_MIN MIB

static void run_over(struct file *file, struct run *run)
{
	if (run->ahead > run->end)
		predict_in_vain(file, run->end, run->ahead);
	*run = (struct run){ 0 };
}

void predict_sequential_gone(struct predictors *p, const struct descriptor *d)
{
	struct file *file = table_peek(&p->files, d->inode);

	for (unsigned i = 0; file && i < RUNS; i++) {
		struct run run = d->runs[i];

		run_over(file, &run);
	}
}

/*
 * Requests of one reader come a little out of order: the kernel has several under way, several threads
 * take them, and what it passed over comes later.
 */
static bool continues(const struct run *run, const struct access *access)
{
	return run->end && access->offset >= run->start &&
	       access->offset <= run->end + 2 * access->length;
}

static struct run *find_run(struct file *file, struct descriptor *d, const struct access *access)
{
	struct run *run = &d->runs[0];

	for (unsigned i = 0; i < RUNS; i++)
		if (continues(&d->runs[i], access))
			return &d->runs[i];
	for (unsigned i = 1; i < RUNS; i++)
		if (d->runs[i].used < run->used)
			run = &d->runs[i];
	run_over(file, run);
	run->start = run->end = run->ahead = access->offset;
	file->runs++;
	return run;
}

/*
 * One that came to where another began takes it over: the kernel's readahead begins in several places
 * of what is one piece for its reader.
 */
static void join(struct file *file, struct descriptor *d, struct run *run, uint64_t slack)
{
	for (unsigned i = 0; i < RUNS; i++) {
		struct run *other = &d->runs[i];

		if (other == run || !other->end || other->start < run->start ||
		    other->start > run->end + slack || other->end < run->end)
			continue;
		run->end = other->end;
		run->ahead = most(run->ahead, other->ahead);
		*other = (struct run){ 0 };
		file->runs -= file->runs > 1;
	}
}

static uint64_t window_of(const struct predictors *p, const struct file *file, const struct run *run)
{
	uint64_t bytes = run->end - run->start, window = bytes, mean = file->read_bytes / most(file->runs, 1);

	if (run->start == 0)
		window = most(2 * bytes, WINDOW_MIN);
	if (file->runs > 2)
		window = most(window, mean / 2);
	/* Most end soon: only who goes on for longer than they do has more ahead again. */
	if (file->runs > RUNS_TYPICAL && bytes < 2 * mean)
		window = least(window, mean + mean / 2 > bytes ? mean + mean / 2 - bytes : 0);
	return least(window, p->config.window_bytes_max);
}

void predict_sequential_read(struct predictors *p, struct file *file, struct descriptor *d, bool strides,
		     const struct access *access, struct intents *intents)
{
	struct run *run = find_run(file, d, access);
	struct intent intent = { .type = INTENT_RANGE, .predictor = PREDICTOR_SEQUENTIAL,
				 .inode = access->inode, .directory = file->directory };
	uint64_t window, end;

	run->used = ++d->clock;
	run->reads++;
	run->end = most(run->end, access->offset + access->length);
	join(file, d, run, 2 * access->length);
	run->ahead = most(run->ahead, run->end);
	if (strides || run->end >= file->size || !predict_may_guess(file))
		return;
	if (run->reads < READS_MIN && (run->start != 0 || access->length < FIRST_READ))
		return;
	window = window_of(p, file, run);
	end = least(run->end + window, file->size);
	/* In pieces that are worth a request each. */
	if (run->ahead >= end || (run->ahead - run->end >= window / 2 && end < file->size))
		return;
	intent.offset = run->ahead;
	intent.length = end - run->ahead;
	intent.distance = 1 + (uint32_t)((run->ahead - run->end) / access->length);
	if (predictors_wish(p, intents, &intent, (struct slice){ 0 }))
		run->ahead = end;
}
