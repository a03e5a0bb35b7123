/*
 * strided.c - records at a fixed distance, forwards or backwards (tac reads a file from its end).
 */
#include "prefetch/predictors_private.h"

/* Equal distances in a row before anything is wished for: three reads have two by chance sometimes. */
#define REPEATS_MIN 2
#define RECORDS_MAX 64u
/* What lies between two records is fetched along when it is less than what a request costs. */
#define GAP_BYTES (64 * KIB)

static void stride_over(struct file *file, struct descriptor *d)
{
	file->wasted_bytes += d->stride_ahead * d->stride_length;
	d->stride_ahead = 0;
	d->repeats = 0;
}

/* Whether record `i` from the current one on lies in the file. */
static bool record_at(const struct file *file, const struct descriptor *d, const struct access *access,
		      uint64_t i, uint64_t *ret_offset)
{
	uint64_t distance = (uint64_t)(d->stride < 0 ? -d->stride : d->stride);

	if (distance > (uint64_t)INT64_MAX / RECORDS_MAX / 2)
		return false;
	if (d->stride < 0) {
		if (access->offset < i * distance)
			return false;
		*ret_offset = access->offset - i * distance;
		return true;
	}
	*ret_offset = access->offset + i * distance;
	return *ret_offset < file->size;
}

static void wish_records(struct predictors *p, struct file *file, struct descriptor *d,
			 const struct access *access, uint32_t count, struct intents *intents)
{
	uint64_t distance = (uint64_t)(d->stride < 0 ? -d->stride : d->stride);
	struct intent intent = { .type = INTENT_RANGE, .predictor = PREDICTOR_STRIDED,
				 .inode = access->inode, .directory = file->directory };
	uint64_t first, last = 0;

	if (distance <= access->length + GAP_BYTES) {
		while (count > d->stride_ahead && !record_at(file, d, access, count, &last))
			count--;
		if (count == d->stride_ahead ||
		    !record_at(file, d, access, d->stride_ahead + 1, &first))
			return;
		intent.offset = least(first, last);
		intent.length = most(first, last) + access->length - intent.offset;
		intent.distance = d->stride_ahead + 1;
		if (predictors_wish(p, intents, &intent, (struct slice){ 0 }))
			d->stride_ahead = count;
		return;
	}
	for (uint32_t i = d->stride_ahead + 1; i <= count; i++) {
		if (!record_at(file, d, access, i, &intent.offset))
			return;
		intent.length = access->length;
		intent.distance = i;
		if (!predictors_wish(p, intents, &intent, (struct slice){ 0 }))
			return;
		d->stride_ahead = i;
	}
}

bool predict_strided_read(struct predictors *p, struct file *file, struct descriptor *d,
		  const struct access *access, struct intents *intents)
{
	int64_t stride = (int64_t)(access->offset - d->last_offset);
	bool known = d->any;
	uint32_t count;

	d->any = true;
	d->last_offset = access->offset;
	if (!known || stride != d->stride || access->length != d->stride_length) {
		if (known)
			stride_over(file, d);
		d->stride = stride;
		d->stride_length = access->length;
		return false;
	}
	/* In order, or nearly: that is for sequential. */
	if (stride >= 0 && (uint64_t)stride < 2 * access->length)
		return false;
	d->repeats++;
	if (d->stride_ahead)
		d->stride_ahead--;
	if (d->repeats < REPEATS_MIN || !predict_may_guess(file))
		return d->repeats >= REPEATS_MIN;
	count = (uint32_t)least(least(2 * d->repeats, RECORDS_MAX),
				most(p->config.window_bytes_max / access->length, 1));
	if (d->stride_ahead <= count / 2)
		wish_records(p, file, d, access, count, intents);
	return true;
}
