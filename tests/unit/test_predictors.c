/* What is wished for in a small world: directories and files with ids, and who reads them. */
#include "unit.h"

#include <errno.h>
#include <sys/stat.h>

#include "lease/base/rng.h"
#include "prefetch/predictors.h"

#define KIB 1024u
#define MIB (1024u * KIB)
#define WISHES 256u

static int64_t blocks, allocations_left = INT64_MAX;

static void *resize(void *context, void *pointer, size_t old_size, size_t size)
{
	if (size == 0) {
		blocks -= pointer != NULL;
		free(pointer);
		return NULL;
	}
	if (allocations_left == 0)
		return NULL;
	allocations_left--;
	blocks += pointer == NULL;
	return realloc(pointer, size);
}

static const struct allocator allocator = { resize, NULL };

static struct predictors *p;
static struct intent items[WISHES];
static struct intents intents;

static void setup(void)
{
	ck_assert_int_eq(predictors_create(NULL, &allocator, &p), 0);
	intents = (struct intents){ .items = items, .capacity = WISHES };
}

static void teardown(void)
{
	predictors_destroy(p);
	p = NULL;
	ck_assert_int_eq(blocks, 0);
}

static void feed(struct access a)
{
	intents.count = 0;
	predictors_access(p, &a, &intents);
	ck_assert(predictors_valid(p));
	for (uint32_t i = 0; i < intents.count; i++)
		ck_assert_uint_lt(items[i].predictor, PREDICTOR_COUNT);
}

static void read_at(uint64_t inode, uint64_t size, uint64_t offset, uint64_t length)
{
	feed((struct access){ .type = ACCESS_READ, .reader = 7, .inode = inode, .directory = 1,
			      .size = size, .offset = offset, .length = length });
}

static void open_named(uint64_t reader, uint64_t directory, uint64_t inode, const char *name,
		       uint64_t size)
{
	feed((struct access){ .type = ACCESS_OPEN, .reader = reader, .inode = inode,
			      .directory = directory, .name = slice_of(name), .size = size,
			      .file_type = S_IFREG });
}

static void list(uint64_t reader, uint64_t directory, uint64_t inode, const char *name)
{
	feed((struct access){ .type = ACCESS_LIST, .reader = reader, .inode = inode,
			      .directory = directory, .name = slice_of(name), .file_type = S_IFDIR });
}

static void listed(uint64_t directory, uint64_t inode, const char *name, uint32_t files,
		   uint32_t directories)
{
	feed((struct access){ .type = ACCESS_LISTED, .inode = inode, .directory = directory,
			      .name = slice_of(name), .file_type = S_IFDIR, .files = files,
			      .directories = directories });
}

/* Of the last access: the first wish of `predictor`, or NULL. */
static const struct intent *wish_of(enum predictor_id predictor)
{
	for (uint32_t i = 0; i < intents.count; i++)
		if (items[i].predictor == predictor)
			return &items[i];
	return NULL;
}

static uint64_t bytes_of(enum predictor_id predictor)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < intents.count; i++)
		if (items[i].predictor == predictor && items[i].type == INTENT_RANGE)
			bytes += items[i].length;
	return bytes;
}

static bool wished_name(enum predictor_id predictor, const char *name)
{
	for (uint32_t i = 0; i < intents.count; i++)
		if (items[i].predictor == predictor && items[i].type == INTENT_FILE &&
		    items[i].name_length == strlen(name) &&
		    memcmp(items[i].name, name, strlen(name)) == 0)
			return true;
	return false;
}

/* ---- within a file ---- */

START_TEST(a_reader_in_order_has_more_and_more_ahead)
{
	const uint64_t size = UINT64_C(4096) * MIB;
	uint64_t ahead = 0;

	for (uint64_t at = 0; at < 1024u * MIB; at += MIB) {
		read_at(2, size, at, MIB);
		for (uint32_t i = 0; i < intents.count; i++) {
			ck_assert_int_eq(items[i].predictor, PREDICTOR_SEQUENTIAL);
			ck_assert_uint_eq(items[i].inode, 2);
			/* Nothing twice, nothing left out. */
			ck_assert_uint_eq(items[i].offset, at == 0 ? MIB : ahead);
			ahead = items[i].offset + items[i].length;
		}
		ck_assert_uint_gt(ahead, at + MIB);
		ck_assert_uint_le(ahead, at + MIB + 64 * MIB);
	}
	ck_assert_uint_ge(ahead, (1024 + 32) * (uint64_t)MIB);
}
END_TEST

START_TEST(nothing_is_wished_for_behind_the_end)
{
	for (uint64_t at = 0; at < 10 * MIB; at += 128 * KIB) {
		read_at(2, 10 * MIB, at, 128 * KIB);
		for (uint32_t i = 0; i < intents.count; i++)
			ck_assert_uint_le(items[i].offset + items[i].length, 10 * MIB);
	}
}
END_TEST

START_TEST(requests_that_overtake_each_other_are_in_order_still)
{
	static const unsigned swapped[] = { 0, 2, 1, 3, 5, 4, 6, 8, 7, 9 };
	uint64_t bytes = 0;

	for (unsigned i = 0; i < 10; i++) {
		read_at(2, 1024 * MIB, swapped[i] * (uint64_t)MIB, MIB);
		bytes += bytes_of(PREDICTOR_SEQUENTIAL);
	}
	ck_assert_uint_ge(bytes, 10 * MIB);
}
END_TEST

START_TEST(streams_through_one_descriptor_are_told_apart)
{
	uint64_t bytes = 0;

	for (uint64_t at = 0; at < 16 * MIB; at += MIB)
		for (uint64_t stream = 0; stream < 4; stream++) {
			read_at(2, 4096 * (uint64_t)MIB, stream * 1024 * MIB + at, MIB);
			bytes += bytes_of(PREDICTOR_SEQUENTIAL);
		}
	ck_assert_uint_ge(bytes, 4 * 16 * MIB);
}
END_TEST

/* Reads `in_a_row` at random places; returns how many bytes were wished for that were not read then. */
static uint64_t random_reads(uint64_t length, unsigned in_a_row, unsigned count)
{
	const uint64_t size = UINT64_C(64) << 30;
	struct rng rng;
	uint64_t bytes = 0;

	rng_init(&rng, length + in_a_row);
	for (unsigned i = 0; i < count; i++) {
		uint64_t at = rng_below(&rng, size / length - in_a_row) * length;
		uint64_t end = at + in_a_row * length, ahead = end;

		for (unsigned j = 0; j < in_a_row; j++) {
			read_at(2, size, at + j * length, length);
			for (uint32_t k = 0; k < intents.count; k++)
				if (items[k].offset + items[k].length > ahead)
					ahead = items[k].offset + items[k].length;
		}
		bytes += ahead - end;
	}
	return bytes;
}

START_TEST(random_reads_cost_little)
{
	static const uint64_t lengths[] = { 4 * KIB, 128 * KIB, MIB };

	for (unsigned i = 0; i < 3; i++)
		for (unsigned in_a_row = 1; in_a_row <= (lengths[i] == MIB ? 2 : 4); in_a_row++) {
			/* A small part of the file. */
			unsigned count = lengths[i] == MIB ? 1000 : 4000;
			uint64_t wished, was_read = count * in_a_row * lengths[i];

			teardown();
			setup();
			wished = random_reads(lengths[i], in_a_row, count);
			/* A window before it is known, and a sixteenth. */
			ck_assert_uint_le(wished, was_read / 10 + 4 * MIB);
		}
}
END_TEST

START_TEST(a_random_reader_that_goes_on_in_order_has_something_ahead_again)
{
	uint64_t bytes = 0;

	(void)random_reads(128 * KIB, 2, 1000);
	for (uint64_t at = 0; at < 1024 * (uint64_t)MIB; at += MIB) {
		read_at(2, UINT64_C(64) << 30, at, MIB);
		bytes += bytes_of(PREDICTOR_SEQUENTIAL);
	}
	ck_assert_uint_ge(bytes, 512 * (uint64_t)MIB);
}
END_TEST

START_TEST(strides_are_followed_both_ways)
{
	const uint64_t size = 4096 * (uint64_t)MIB;
	unsigned hits = 0;

	for (uint64_t i = 0; i < 100; i++) {
		read_at(2, size, i * 8 * MIB, 64 * KIB);
		for (uint32_t k = 0; k < intents.count; k++) {
			ck_assert_int_eq(items[k].predictor, PREDICTOR_STRIDED);
			ck_assert_uint_eq(items[k].offset % (8 * MIB), 0);
			ck_assert_uint_eq(items[k].length, 64 * KIB);
			hits += items[k].offset > i * 8 * MIB;
		}
	}
	ck_assert_uint_ge(hits, 97);
	ck_assert_uint_le(hits, 97 + 64);
	for (uint64_t i = 0; i < 512; i++) { /* tac */
		read_at(3, 4 * MIB, 4 * MIB - (i + 1) * 8 * KIB, 8 * KIB);
		if (i > 4 && i < 400)
			ck_assert_int_eq(wish_of(PREDICTOR_SEQUENTIAL) != NULL, 0);
		for (uint32_t k = 0; k < intents.count; k++)
			ck_assert_uint_le(items[k].offset + items[k].length, 4 * MIB - i * 8 * KIB);
	}
}
END_TEST

START_TEST(the_rest_of_a_small_file_is_wished_for_once)
{
	read_at(2, 600 * KIB, 300 * KIB, 4 * KIB);
	ck_assert_ptr_nonnull(wish_of(PREDICTOR_WHOLE));
	ck_assert_uint_eq(bytes_of(PREDICTOR_WHOLE), 600 * KIB);
	read_at(2, 600 * KIB, 100 * KIB, 4 * KIB);
	ck_assert_ptr_null(wish_of(PREDICTOR_WHOLE));
	read_at(3, 64 * KIB, 0, 64 * KIB);
	ck_assert_uint_eq(intents.count, 0);
}
END_TEST

START_TEST(weights_that_are_loaded_out_of_order_are_fetched_whole)
{
	const uint64_t tensor = 32 * (uint64_t)MIB, count = 64, size = tensor * count;
	uint64_t order[64], bytes = 0, was_read = 0;
	struct rng rng;

	rng_init(&rng, 5);
	for (unsigned i = 0; i < count; i++)
		order[i] = i;
	for (unsigned i = 63; i > 0; i--) {
		unsigned j = (unsigned)rng_below(&rng, i + 1);
		uint64_t swap = order[i];

		order[i] = order[j];
		order[j] = swap;
	}
	read_at(2, size, 0, 128 * KIB);
	for (unsigned i = 0; i < count; i++)
		for (uint64_t at = 0; at < tensor; at += MIB) {
			read_at(2, size, order[i] * tensor + at, MIB);
			bytes += bytes_of(PREDICTOR_WHOLE);
			was_read += MIB;
			/* A step at a time. */
			ck_assert_uint_le(bytes, was_read < size / 2 ? was_read : size);
		}
	ck_assert_uint_ge(bytes, size / 5);
	ck_assert_uint_le(bytes, size);
}
END_TEST

/* ---- series ---- */

START_TEST(the_next_shards_are_wished_for)
{
	open_named(9, 1, 100, "shard-00000.tar", 64 * MIB);
	ck_assert_uint_eq(intents.count, 0);
	open_named(9, 1, 101, "shard-00001.tar", 64 * MIB);
	ck_assert(wished_name(PREDICTOR_SERIES, "shard-00002.tar"));
	open_named(9, 1, 102, "shard-00002.tar", 64 * MIB);
	ck_assert(wished_name(PREDICTOR_SERIES, "shard-00004.tar"));
	ck_assert(!wished_name(PREDICTOR_SERIES, "shard-00002.tar"));
	for (unsigned i = 3; i < 20; i++) {
		char name[32];

		(void)snprintf(name, sizeof(name), "shard-%05u.tar", i);
		open_named(9, 1, 100 + i, name, 64 * MIB);
		for (uint32_t k = 0; k < intents.count; k++)
			ck_assert_int_eq(items[k].predictor, PREDICTOR_SERIES);
	}
	ck_assert(wished_name(PREDICTOR_SERIES, "shard-00023.tar"));
	ck_assert_uint_eq(intents.count, 1);
}
END_TEST

START_TEST(numbers_are_anywhere_in_a_name_and_count_in_their_own_way)
{
	open_named(9, 1, 2, "part-8-of-64", MIB);
	open_named(9, 1, 3, "part-9-of-64", MIB);
	ck_assert(wished_name(PREDICTOR_SERIES, "part-10-of-64"));
	open_named(9, 2, 4, "model.0.bin", MIB);
	open_named(9, 2, 5, "model.1.bin", MIB);
	ck_assert(wished_name(PREDICTOR_SERIES, "model.2.bin"));
	open_named(9, 3, 6, "data_2024_098.parquet", MIB);
	open_named(9, 3, 7, "data_2024_099.parquet", MIB);
	ck_assert(wished_name(PREDICTOR_SERIES, "data_2024_100.parquet"));
	open_named(9, 4, 8, "t000", MIB);
	open_named(9, 4, 9, "t010", MIB);
	open_named(9, 4, 10, "t020", MIB);
	ck_assert(wished_name(PREDICTOR_SERIES, "t030"));
	open_named(9, 5, 11, "c9", MIB);
	open_named(9, 5, 12, "c8", MIB);
	open_named(9, 5, 13, "c7", MIB);
	ck_assert(wished_name(PREDICTOR_SERIES, "c6"));
	open_named(9, 5, 13, "9999999999999999999999", MIB);
	open_named(9, 5, 13, "999999999999999999", MIB);
}
END_TEST

START_TEST(workers_that_share_a_series_have_steps_of_their_own)
{
	bool wished[200] = { false };
	unsigned late = 0;

	for (unsigned round = 0; round < 25; round++)
		for (unsigned i = 0; i < 8; i++) {
			unsigned worker = (i * 3 + round) % 8; /* not in order */
			unsigned shard = round * 8 + worker;
			char name[32], next[32];

			(void)snprintf(name, sizeof(name), "s%u.tar", shard);
			open_named(100 + worker, 1, 1000 + shard, name, 16 * MIB);
			late += round > 3 && !wished[shard];
			for (unsigned k = 0; k < 200; k++) {
				(void)snprintf(next, sizeof(next), "s%u.tar", k);
				wished[k] |= wished_name(PREDICTOR_SERIES, next);
			}
		}
	ck_assert_uint_eq(late, 0);
}
END_TEST

START_TEST(shuffled_shards_are_no_series)
{
	struct rng rng;
	unsigned wished = 0;

	rng_init(&rng, 3);
	for (unsigned i = 0; i < 500; i++) {
		unsigned shard = (unsigned)rng_below(&rng, 1024);
		char name[32];

		(void)snprintf(name, sizeof(name), "s%04u.tar", shard);
		open_named(9, 1, 1000 + shard, name, 64 * MIB);
		wished += intents.count;
	}
	ck_assert_uint_le(wished, 50);
}
END_TEST

/* ---- sweeps ---- */

static unsigned *shuffled(unsigned count, uint64_t seed)
{
	unsigned *order = malloc(count * sizeof(*order));
	struct rng rng;

	ck_assert_ptr_nonnull(order);
	rng_init(&rng, seed);
	for (unsigned i = 0; i < count; i++)
		order[i] = i;
	for (unsigned i = count - 1; i > 0; i--) {
		unsigned j = (unsigned)rng_below(&rng, i + 1), swap = order[i];

		order[i] = order[j];
		order[j] = swap;
	}
	return order;
}

START_TEST(a_shuffled_directory_is_fetched_long_before_it_is_read)
{
	const unsigned count = 20000;
	unsigned *order = shuffled(count, 1), fetched = 0, missed = 0;

	listed(1, 2, "train", count, 0);
	for (unsigned i = 0; i < count; i++) {
		char name[32];

		/* Listed in an order that is not that of the names. */
		(void)snprintf(name, sizeof(name), "%08x", (unsigned)rng_mix(order[i]));
		missed += order[i] >= fetched;
		open_named(9, 2, 1000 + order[i], name, 110 * KIB);
		for (uint32_t k = 0; k < intents.count; k++) {
			ck_assert_int_eq(items[k].type, INTENT_FILES);
			ck_assert_uint_eq(items[k].directory, 2);
			ck_assert_uint_le(items[k].count, count);
			if (!items[k].name_length && items[k].count > fetched)
				fetched = items[k].count;
		}
	}
	ck_assert_uint_eq(fetched, count);
	ck_assert_uint_le(missed, count / 15);
	free(order);
}
END_TEST

START_TEST(a_few_files_of_a_huge_directory_cost_a_bounded_number)
{
	unsigned fetched = 0;

	listed(1, 2, "train", 5000000, 0);
	for (unsigned i = 0; i < 3000; i++) {
		char name[32];

		(void)snprintf(name, sizeof(name), "%08x", (unsigned)rng_mix(i));
		open_named(9, 2, 1000 + i, name, 110 * KIB);
		for (uint32_t k = 0; k < intents.count; k++)
			if (items[k].type == INTENT_FILES && items[k].count > fetched)
				fetched = items[k].count;
	}
	ck_assert_uint_le(fetched, 1024);
}
END_TEST

START_TEST(files_in_the_order_of_their_names_are_fetched_in_it)
{
	unsigned ahead = 0, wished = 0;

	listed(1, 2, "pages", 10000, 0);
	for (unsigned i = 0; i < 10000; i++) {
		const struct intent *wish;
		char name[32];

		(void)snprintf(name, sizeof(name), "page-%c%c%c%c", 'a' + i / 1000, 'a' + i / 100 % 10,
			       'a' + i / 10 % 10, 'a' + i % 10);
		open_named(9, 2, 1000 + i, name, 110 * KIB);
		wish = wish_of(PREDICTOR_SWEEP);
		if (wish && wish->sorted) {
			ck_assert_mem_eq(wish->name, name, wish->name_length);
			ahead = i + wish->count;
			wished++;
		}
		if (i > 10)
			ck_assert_uint_gt(ahead, i);
	}
	ck_assert_uint_le(wished, 200);
}
END_TEST

START_TEST(few_or_large_files_are_not_swept)
{
	open_named(9, 1, 10, "a", 10 * KIB);
	open_named(9, 1, 11, "z", 10 * KIB);
	open_named(9, 1, 10, "a", 10 * KIB);
	open_named(9, 1, 11, "z", 10 * KIB);
	open_named(9, 1, 10, "a", 10 * KIB);
	ck_assert_uint_eq(intents.count, 0);
	for (unsigned i = 0; i < 100; i++) {
		char name[32];

		(void)snprintf(name, sizeof(name), "%c%u", 'a' + i * 7 % 26, i * 31 % 97);
		open_named(9, 2, 100 + i, name, 64 * MIB);
		ck_assert_ptr_null(wish_of(PREDICTOR_SWEEP));
	}
}
END_TEST

/* ---- trees: ids of directories are 10 + i, of files 100000 + i ---- */

struct tree {
	unsigned directories, files_each;
	bool here[2000];         /* its listing */
	unsigned fetched[2000];  /* the first so many files */
};

/* What is wished for is there at once. */
static void serve(struct tree *t)
{
	struct intent copy[WISHES];
	uint32_t count = intents.count;

	memcpy(copy, items, count * sizeof(*items));
	for (uint32_t k = 0; k < count; k++) {
		unsigned first = 0, i;

		if (copy[k].type == INTENT_FILES && copy[k].directory >= 10) {
			unsigned *fetched = &t->fetched[copy[k].directory - 10];

			*fetched = copy[k].name_length ? t->files_each :
				copy[k].count > *fetched ? copy[k].count : *fetched;
		}
		if (copy[k].type != INTENT_LISTS || copy[k].directory != 1)
			continue;
		if (copy[k].name_length) {
			copy[k].name[copy[k].name_length] = '\0';
			first = (unsigned)atoi(copy[k].name + 1) + 1;
		}
		for (i = first; i < t->directories && i - first < copy[k].count; i++) {
			char name[32];

			(void)snprintf(name, sizeof(name), "n%04u", i);
			t->here[i] = true;
			listed(1, 10 + i, name, t->files_each, 0);
			serve(t);
		}
	}
}

static void open_in_tree(struct tree *t, unsigned file, unsigned *missed)
{
	unsigned i = file / t->files_each, at = file % t->files_each;
	char name[32];

	(void)snprintf(name, sizeof(name), "n%04u", i);
	feed((struct access){ .type = ACCESS_LOOKUP, .inode = 10 + i, .directory = 1,
			      .name = slice_of(name), .file_type = S_IFDIR });
	*missed += at >= t->fetched[i];
	(void)snprintf(name, sizeof(name), "%08x.jpg", (unsigned)rng_mix(file));
	open_named(9, 10 + i, 100000 + file, name, 110 * KIB);
	serve(t);
}

START_TEST(a_shuffled_tree_is_fetched_long_before_it_is_read)
{
	struct tree *t = calloc(1, sizeof(*t));
	unsigned *order = shuffled(20000, 2), missed = 0;

	ck_assert_ptr_nonnull(t);
	t->directories = 200;
	t->files_each = 100;
	listed(0, 1, "", 0, 200);
	for (unsigned i = 0; i < 20000; i++)
		open_in_tree(t, order[i], &missed);
	ck_assert_uint_le(missed, 20000 / 10);
	free(order);
	free(t);
}
END_TEST

START_TEST(directory_after_directory_is_fetched_before_it_is_come_to)
{
	struct tree *t = calloc(1, sizeof(*t));
	unsigned missed = 0, ahead = 0;

	ck_assert_ptr_nonnull(t);
	t->directories = 200;
	t->files_each = 100;
	listed(0, 1, "", 0, 200);
	for (unsigned i = 0; i < 10000; i++) /* half of it */
		open_in_tree(t, i, &missed);
	for (unsigned i = 100; i < 200; i++)
		ahead += t->fetched[i];
	ck_assert_uint_le(missed, 1000);
	ck_assert_uint_le(ahead, 2000);
	free(t);
}
END_TEST

/* `find`: each directory's listing is there when it is come to. */
static unsigned walk_flat(const unsigned *order)
{
	struct tree *t = calloc(1, sizeof(*t));
	unsigned missed = 0;

	ck_assert_ptr_nonnull(t);
	t->directories = 2000;
	list(9, 0, 1, "");
	listed(0, 1, "", 0, 2000);
	for (unsigned i = 0; i < 2000; i++) {
		char name[32];

		(void)snprintf(name, sizeof(name), "n%04u", order[i]);
		missed += !t->here[i];
		list(9, 1, 10 + i, name);
		serve(t);
		if (!t->here[i])
			listed(1, 10 + i, name, 25, 0);
		serve(t);
	}
	free(t);
	return missed;
}

START_TEST(a_walk_has_the_listings_ahead_of_it)
{
	unsigned order[2000];

	for (unsigned i = 0; i < 2000; i++)
		order[i] = i;
	ck_assert_uint_le(walk_flat(order), 2);
}
END_TEST

/* Who keeps directories on a stack comes to the last one first. */
START_TEST(a_walk_in_reverse_has_most_listings_ahead_of_it)
{
	unsigned order[2000];

	for (unsigned i = 0; i < 2000; i++)
		order[i] = 1999 - i;
	ck_assert_uint_le(walk_flat(order), 400);
}
END_TEST

/* What is in a directory that a walk comes to sooner is nearer. */
START_TEST(wishes_of_a_walk_go_out_in_its_order)
{
	uint32_t last = 0;

	list(9, 0, 1, "");
	listed(0, 1, "", 0, 20);
	list(9, 1, 10, "a");
	for (unsigned i = 0; i < 20; i++) {
		char name[2] = { (char)('a' + i), 0 };

		listed(1, 10 + i, name, 0, 200);
	}
	for (unsigned i = 0; i < 40; i++) { /* it goes on in the first */
		char name[8];

		(void)snprintf(name, sizeof(name), "n%u", i);
		intents.count = 0;
		list(9, 10, 1000 + i, name);
		for (uint32_t k = 0; k < intents.count; k++) {
			if (items[k].type != INTENT_LISTS || items[k].directory == 10)
				continue;
			ck_assert_uint_ge(items[k].directory, last);
			ck_assert_uint_gt(items[k].distance, 1);
			last = (uint32_t)items[k].directory;
		}
	}
	ck_assert_uint_gt(last, 10);
}
END_TEST

/* Each directory has `fan` more, `depth` deep; returns those whose listing was not there. */
static bool deep_here[40000];
static unsigned deep_missed, deep_fan;

static void deep_serve(void)
{
	struct intent copy[WISHES];
	uint32_t count = intents.count;

	memcpy(copy, items, count * sizeof(*items));
	for (uint32_t k = 0; k < count; k++) {
		uint64_t d = copy[k].directory;
		unsigned first = 0;

		if (copy[k].type != INTENT_LISTS)
			continue;
		if (copy[k].name_length)
			first = (unsigned)(copy[k].name[0] - 'a') + 1;
		for (unsigned i = first; i < deep_fan && i - first < copy[k].count; i++) {
			uint64_t child = d * deep_fan + i + 1;
			char name[2] = { (char)('a' + i), 0 };

			if (child >= 40000)
				continue;
			deep_here[child] = true;
			listed(d, child, name, 3, child * deep_fan + 1 < 40000 ? deep_fan : 0);
			deep_serve();
		}
	}
}

static void deep_walk(uint64_t parent, uint64_t d, char letter)
{
	char name[2] = { letter, 0 };

	if (d >= 40000)
		return;
	deep_missed += !deep_here[d];
	list(9, parent, d, name);
	deep_serve();
	listed(parent, d, name, 3, d * deep_fan + 1 < 40000 ? deep_fan : 0);
	deep_serve();
	for (unsigned i = 0; i < deep_fan; i++)
		deep_walk(d, d * deep_fan + i + 1, (char)('a' + i));
}

START_TEST(a_walk_into_the_depth_has_the_listings_ahead_of_it)
{
	for (deep_fan = 2; deep_fan < 12; deep_fan += 3) {
		memset(deep_here, 0, sizeof(deep_here));
		deep_missed = 0;
		teardown();
		setup();
		deep_walk(0, 1, 'r');
		ck_assert_uint_le(deep_missed, 400);
	}
}
END_TEST

START_TEST(a_look_into_a_directory_is_no_walk)
{
	list(5, 0, 1, "");
	listed(0, 1, "", 0, 2000);
	list(6, 1, 10, "n0000");
	ck_assert_uint_eq(intents.count, 0);
	listed(1, 10, "n0000", 25, 0);
	ck_assert_uint_eq(intents.count, 0);
}
END_TEST

/* ---- epochs ---- */

static unsigned epoch(const unsigned *order, unsigned count, uint64_t *wishes)
{
	static bool fetched[20000];
	unsigned hits = 0;

	memset(fetched, 0, sizeof(fetched));
	for (unsigned i = 0; i < count; i++) {
		hits += fetched[order[i]];
		/* No directory: nothing but the order is known. */
		feed((struct access){ .type = ACCESS_OPEN, .reader = 9, .inode = rng_mix(order[i]),
				      .size = 110 * KIB });
		for (uint32_t k = 0; k < intents.count; k++) {
			ck_assert_int_eq(items[k].predictor, PREDICTOR_EPOCH);
			for (unsigned j = i; j < count && j < i + 1000; j++)
				fetched[order[j]] |= rng_mix(order[j]) == items[k].inode;
		}
		*wishes += intents.count;
	}
	return hits;
}

START_TEST(the_same_order_again_is_followed)
{
	unsigned *order = shuffled(20000, 4);
	uint64_t wishes = 0;

	ck_assert_uint_eq(epoch(order, 20000, &wishes), 0);
	ck_assert_uint_eq(wishes, 0);
	ck_assert_uint_ge(epoch(order, 20000, &wishes), 19800);
	ck_assert_uint_ge(epoch(order, 20000, &wishes), 19700); /* some were wished for at the end before */
	ck_assert_uint_le(wishes, 2 * 20000 + 256);
	free(order);
}
END_TEST

START_TEST(nearly_the_same_order_is_followed_too)
{
	unsigned *order = shuffled(20000, 5);
	uint64_t wishes = 0;
	struct rng rng;

	(void)epoch(order, 20000, &wishes);
	rng_init(&rng, 6);
	for (unsigned i = 0; i + 20 < 20000; i++) { /* four workers, and a shuffle in a buffer */
		unsigned j = i + (unsigned)rng_below(&rng, 20), swap = order[i];

		order[i] = order[j];
		order[j] = swap;
	}
	ck_assert_uint_ge(epoch(order, 20000, &wishes), 16000);
	free(order);
}
END_TEST

START_TEST(another_order_is_not_followed)
{
	unsigned *order = shuffled(20000, 7), *other = shuffled(20000, 8);
	uint64_t wishes = 0;

	(void)epoch(order, 20000, &wishes);
	(void)epoch(other, 20000, &wishes);
	ck_assert_uint_le(wishes, 500);
	free(order);
	free(other);
}
END_TEST

/* ---- whatever comes ---- */

START_TEST(anything_may_come_in_any_order)
{
	struct predictors_config config = { .files_max = 16, .epoch_entries_max = 100 };
	struct rng rng;

	teardown();
	ck_assert_int_eq(predictors_create(&config, &allocator, &p), 0);
	rng_init(&rng, 9);
	for (unsigned i = 0; i < 100000; i++) {
		char name[16];
		struct access a = { .type = (enum access_type)rng_below(&rng, ACCESS_TYPE_COUNT),
				    .reader = rng_below(&rng, 4), .inode = rng_below(&rng, 60),
				    .directory = rng_below(&rng, 60), .name = slice_of(name),
				    .file_type = rng_below(&rng, 2) ? S_IFDIR : S_IFREG,
				    .size = rng_next(&rng) >> rng_below(&rng, 64),
				    .offset = rng_next(&rng) >> rng_below(&rng, 64),
				    .length = rng_next(&rng) >> rng_below(&rng, 64),
				    .files = (uint32_t)(rng_next(&rng) >> (32 + rng_below(&rng, 32))),
				    .directories = (uint32_t)(rng_next(&rng) >> (32 + rng_below(&rng, 32))) };

		(void)snprintf(name, sizeof(name), "%u-%u", (unsigned)rng_below(&rng, 12),
			       (unsigned)rng_below(&rng, 12));
		intents.capacity = (uint32_t)rng_below(&rng, 20);
		a.name = slice_of(name);
		feed(a);
	}
}
END_TEST

START_TEST(without_memory_there_are_none)
{
	struct predictors *none = NULL;
	int64_t before = blocks;

	for (int64_t i = 0; !none; i++) {
		int r;

		allocations_left = i;
		r = predictors_create(NULL, &allocator, &none);
		allocations_left = INT64_MAX;
		ck_assert_int_eq(r, none ? 0 : -ENOMEM);
		ck_assert(none || blocks == before);
		ck_assert_int_lt(i, 100);
	}
	predictors_destroy(none);
}
END_TEST

static TCase *predictors_case(void)
{
	TCase *t = tcase_create("predictors");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, a_reader_in_order_has_more_and_more_ahead);
	tcase_add_test(t, nothing_is_wished_for_behind_the_end);
	tcase_add_test(t, requests_that_overtake_each_other_are_in_order_still);
	tcase_add_test(t, streams_through_one_descriptor_are_told_apart);
	tcase_add_test(t, random_reads_cost_little);
	tcase_add_test(t, a_random_reader_that_goes_on_in_order_has_something_ahead_again);
	tcase_add_test(t, strides_are_followed_both_ways);
	tcase_add_test(t, the_rest_of_a_small_file_is_wished_for_once);
	tcase_add_test(t, weights_that_are_loaded_out_of_order_are_fetched_whole);
	tcase_add_test(t, the_next_shards_are_wished_for);
	tcase_add_test(t, numbers_are_anywhere_in_a_name_and_count_in_their_own_way);
	tcase_add_test(t, workers_that_share_a_series_have_steps_of_their_own);
	tcase_add_test(t, shuffled_shards_are_no_series);
	tcase_add_test(t, a_shuffled_directory_is_fetched_long_before_it_is_read);
	tcase_add_test(t, a_few_files_of_a_huge_directory_cost_a_bounded_number);
	tcase_add_test(t, files_in_the_order_of_their_names_are_fetched_in_it);
	tcase_add_test(t, few_or_large_files_are_not_swept);
	tcase_add_test(t, a_shuffled_tree_is_fetched_long_before_it_is_read);
	tcase_add_test(t, directory_after_directory_is_fetched_before_it_is_come_to);
	tcase_add_test(t, a_walk_has_the_listings_ahead_of_it);
	tcase_add_test(t, a_walk_in_reverse_has_most_listings_ahead_of_it);
	tcase_add_test(t, wishes_of_a_walk_go_out_in_its_order);
	tcase_add_test(t, a_walk_into_the_depth_has_the_listings_ahead_of_it);
	tcase_add_test(t, a_look_into_a_directory_is_no_walk);
	tcase_add_test(t, the_same_order_again_is_followed);
	tcase_add_test(t, nearly_the_same_order_is_followed_too);
	tcase_add_test(t, another_order_is_not_followed);
	tcase_add_test(t, anything_may_come_in_any_order);
	tcase_add_test(t, without_memory_there_are_none);
	return t;
}

UNIT_MAIN("predictors", predictors_case)
