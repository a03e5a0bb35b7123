/*
 * whole.c - the rest of a file that is read in parts.
 *
 * A small file is fetched whole when a part of it was read: a round trip costs more than its bytes. Of a
 * larger one the rest is fetched in steps when a share of it was read in few long pieces, as weights are
 * loaded, whatever the order of the pieces; each step only when half of the one before was read, or
 * another eighth of the file. Random
 * reads never look like that: their pieces are short. When half of it was read that way, so will be all.
 */
#include "prefetch/predictors_private.h"

/* What takes 8 ms at 1 Gbit/s. */
#define SMALL_BYTES MIB
/* One part in so many was read. */
#define SHARE 8
/* The first step is so small a part of what was read, each other twice the one before. */
#define FIRST_STEP_SHARE 16

static bool has(const struct block_set *set, unsigned block)
{
	return set->words[block / 64] >> (block % 64) & 1;
}

static void add(struct block_set *set, unsigned block)
{
	set->words[block / 64] |= UINT64_C(1) << (block % 64);
}

static unsigned count_both(const struct block_set *a, const struct block_set *b)
{
	unsigned count = 0;

	for (unsigned i = 0; i < FILE_BLOCKS; i++)
		count += has(a, i) && has(b, i);
	return count;
}

static void wish_range(struct predictors *p, struct file *file, uint64_t offset, uint64_t length,
		       struct intents *intents, bool *ret_room)
{
	const struct intent intent = { .type = INTENT_RANGE, .predictor = PREDICTOR_WHOLE,
				       .inode = file->entry.key, .directory = file->directory,
				       .offset = offset, .length = length, .distance = 2 };

	*ret_room = predictors_wish(p, intents, &intent, (struct slice){ 0 });
}

/* Up to `bytes` of blocks that were neither read nor wished for, from `block` on, around the end. */
static void wish_step(struct predictors *p, struct file *file, unsigned block, uint64_t bytes,
		      struct intents *intents)
{
	uint64_t size = predict_block_bytes(file), count = (file->size + size - 1) / size;
	uint64_t left = most(bytes / size, 1);
	bool room = true, any = false;

	for (uint64_t i = 0; i < count && left && room; i++) {
		unsigned first = (unsigned)((block + i) % count), length = 0;

		while (first + length < count && length < left && i + length < count &&
		       !has(&file->touched, first + length) && !has(&file->guessed, first + length))
			length++;
		if (!length)
			continue;
		wish_range(p, file, first * size, length * size, intents, &room);
		if (!room)
			break;
		any = true;
		for (unsigned j = 0; j < length; j++)
			add(&file->guessed, first + j);
		left -= length;
		i += length - 1;
	}
	if (any)
		file->whole_step = bytes;
	else if (room)
		file->whole = true;
}

/* Seldom enough: when the reader came into another block. */
static void consider(struct predictors *p, struct file *file, unsigned block, struct intents *intents)
{
	unsigned touched = count_both(&file->touched, &file->touched);
	unsigned guessed = count_both(&file->guessed, &file->guessed);
	uint64_t covered = least(file->read_bytes, touched * predict_block_bytes(file));
	uint64_t step = file->whole_step ? 2 * file->whole_step : covered / FIRST_STEP_SHARE;
	unsigned eighth = (unsigned)(covered / (file->size / SHARE + 1));

	/* Read in order is not for us. */
	if (covered < file->size / SHARE || !predict_long_pieces(file))
		return;
	if (file->read_bytes > 2 * covered)
		return; /* parts of it are read again and again */
	if (covered >= file->size / 2)
		wish_step(p, file, block, file->size, intents);
	else if (2 * count_both(&file->guessed, &file->touched) >= guessed)
		wish_step(p, file, block, least(step, covered), intents);
	else if (eighth > file->eighth)
		wish_step(p, file, block, covered / SHARE * eighth, intents);
	file->eighth = (uint8_t)eighth;
}

void predict_whole_read(struct predictors *p, struct file *file, const struct access *access,
		struct intents *intents)
{
	uint64_t size = predict_block_bytes(file), last;
	bool other = false, room;

	if (file->whole || access->offset >= file->size)
		return;
	if (file->size <= SMALL_BYTES) {
		file->whole = true;
		if ((access->offset > 0 || access->length < file->size) &&
		    !predict_parts_only(p, file)) {
			wish_range(p, file, 0, file->size, intents, &room);
			file->whole = room;
		}
		return;
	}
	last = least(access->offset + access->length, file->size) - 1;
	for (uint64_t block = access->offset / size; block <= last / size && block < FILE_BLOCKS;
	     block++)
		if (!has(&file->touched, (unsigned)block)) {
			add(&file->touched, (unsigned)block);
			other = true;
		}
	if (other)
		consider(p, file, (unsigned)least(last / size, FILE_BLOCKS - 1), intents);
}
