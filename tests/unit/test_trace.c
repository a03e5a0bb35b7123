/* The text of traces, and what a replay of some makes of them. */
#include "unit.h"

#include <errno.h>
#include <stdarg.h>

#include "lease/base/rng.h"
#include "prefetch/replay.h"
#include "prefetch/trace.h"

#define KIB 1024u
#define MIB (1024u * KIB)

static int64_t blocks;

static void *resize(void *context, void *pointer, size_t old_size, size_t size)
{
	if (size == 0) {
		blocks -= pointer != NULL;
		free(pointer);
		return NULL;
	}
	blocks += pointer == NULL;
	return realloc(pointer, size);
}

static const struct allocator allocator = { resize, NULL };

static char text[16 * MIB];
static size_t length;

static void setup(void)
{
	length = 0;
}

static void teardown(void)
{
	ck_assert_int_eq(blocks, 0);
}

__attribute__((format(printf, 1, 2))) static void line(const char *format, ...)
{
	va_list arguments;

	if (!length)
		length = sizeof(TRACE_HEADER) - 1;
	memcpy(text, TRACE_HEADER, sizeof(TRACE_HEADER) - 1);
	va_start(arguments, format);
	length += (size_t)vsnprintf(text + length, sizeof(text) - length, format, arguments);
	va_end(arguments);
	ck_assert_uint_lt(length + 1, sizeof(text));
	text[length++] = '\n';
}

/* ---- the text ---- */

START_TEST(a_line_says_what_an_access_was)
{
	struct trace_reader r;
	struct trace_line l;

	line("# a comment");
	line("100 open 7 d1 r2 t0100644 s65536 \"a \\\"b\\\" \\\\ \\x0a\"");
	line("%s", "");
	line("50 read 7 r9 o131072 l4096 c");
	line("entry 8 d1 s5 \"b\"");
	line("0 listed 1 f10 D3");
	trace_reader_init(&r, (struct slice){ (uint8_t *)text, length });
	ck_assert_int_eq(trace_next(&r, &l), 1);
	ck_assert_int_eq(l.access.type, ACCESS_OPEN);
	ck_assert_uint_eq(l.access.at.ns, 100000);
	ck_assert_uint_eq(l.access.inode, 7);
	ck_assert_uint_eq(l.access.directory, 1);
	ck_assert_uint_eq(l.access.reader, 2);
	ck_assert_uint_eq(l.access.file_type, S_IFREG);
	ck_assert_uint_eq(l.access.size, 65536);
	ck_assert(slice_equal(l.access.name, slice_of("a \"b\" \\ \n")));
	ck_assert_int_eq(trace_next(&r, &l), 1);
	ck_assert_int_eq(l.access.type, ACCESS_READ);
	ck_assert_uint_eq(l.access.at.ns, 150000);
	ck_assert(l.access.cached && l.access.offset == 131072 && l.access.length == 4096);
	ck_assert_uint_eq(r.line, 5);
	ck_assert_int_eq(trace_next(&r, &l), 1);
	ck_assert(l.entry && l.access.inode == 8);
	ck_assert_int_eq(trace_next(&r, &l), 1);
	ck_assert(l.access.files == 10 && l.access.directories == 3);
	ck_assert_int_eq(trace_next(&r, &l), 0);
	ck_assert_int_eq(trace_next(&r, &l), 0);
}
END_TEST

static const struct {
	const char *text, *expected;
	uint32_t line;
} refused[] = {
	{ "", "leasehold-trace 1", 1 },
	{ "leasehold-trace 2\n0 close 1\n", "leasehold-trace 1", 1 },
	{ TRACE_HEADER "x close 1\n", "microseconds", 2 },
	{ TRACE_HEADER "0 close 1\n-1 close 1\n", "microseconds", 3 },
	{ TRACE_HEADER "86400000001 close 1\n", "a day", 2 },
	{ TRACE_HEADER "0 write 1\n", "lookup, list", 2 },
	{ TRACE_HEADER "0 read\n", "an inode", 2 },
	{ TRACE_HEADER "0 read 99999999999999999999\n", "an inode", 2 },
	{ TRACE_HEADER "0 read 1 o\n", "an offset", 2 },
	{ TRACE_HEADER "0 read 1 l1x\n", "a length", 2 },
	{ TRACE_HEADER "0 read 1  l1\n", "one blank", 2 },
	{ TRACE_HEADER "0 read 1 l1 \n", "one blank", 2 },
	{ TRACE_HEADER "0 read 1 q1\n", "one of", 2 },
	{ TRACE_HEADER "0 read 1 c1\n", "c alone", 2 },
	{ TRACE_HEADER "0 open 1 t0999\n", "octal", 2 },
	{ TRACE_HEADER "0 open 1 \"a\n", "a quote", 2 },
	{ TRACE_HEADER "0 open 1 \"a/b\"\n", "without /", 2 },
	{ TRACE_HEADER "0 open 1 \"\\n\"\n", "hexadecimal", 2 },
	{ TRACE_HEADER "0 open 1 \"\\x0A\"\n", "hexadecimal", 2 },
	{ TRACE_HEADER "0 open 1 \"a\" r1\n", "nothing behind", 2 },
	{ TRACE_HEADER "entry 1 \"a\"\n", "its directory", 2 },
};

START_TEST(a_wrong_line_is_refused_with_its_number_and_what_was_expected)
{
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		struct trace_reader r;
		struct trace_line l;
		int next;

		trace_reader_init(&r, slice_of(refused[i].text));
		while ((next = trace_next(&r, &l)) > 0)
			;
		ck_assert_msg(next == -EINVAL, "%s", refused[i].text);
		ck_assert_msg(r.line == refused[i].line, "%s: %u", refused[i].text, r.line);
		ck_assert_msg(strstr(r.expected, refused[i].expected), "%s: %s", refused[i].text,
			      r.expected);
		ck_assert_int_eq(trace_next(&r, &l), -EINVAL);
	}
}
END_TEST

START_TEST(what_is_written_can_be_read)
{
	uint8_t buffer[TRACE_LINE_MAX], name[TRACE_NAME_MAX];
	struct instant previous = { 1000 }, before = previous;
	struct trace_line l = { .access = { .type = ACCESS_READ, .at = { 5999 }, .reader = UINT64_MAX,
					    .inode = UINT64_MAX, .directory = UINT64_MAX,
					    .file_type = S_IFSOCK, .size = INT64_MAX,
					    .offset = INT64_MAX, .length = INT64_MAX,
					    .files = UINT32_MAX, .directories = UINT32_MAX,
					    .cached = true } };
	struct writer w = writer_of(buffer, sizeof(buffer));

	memset(name, 1, sizeof(name));
	l.access.name = (struct slice){ name, sizeof(name) };
	trace_write(&w, &l, &previous);
	ck_assert(!w.failed);
	ck_assert_mem_eq(buffer, "4 read ", 7);
	ck_assert_uint_eq(previous.ns, before.ns + 4000); /* the rest is not lost */
	w = writer_of(buffer, 20);
	trace_write(&w, &l, &previous);
	ck_assert(w.failed);
}
END_TEST

/* ---- replays ---- */

static struct replay_result with, without;

static void replay(struct replay_config config)
{
	const struct slice trace = { (uint8_t *)text, length };
	const char *expected = NULL;
	uint32_t number = 0;
	int r;

	r = replay_run(trace, &config, &allocator, &without, &number, &expected);
	ck_assert_msg(r == 0, "line %u: expected %s", number, expected ? expected : "?");
	config.predict = true;
	ck_assert_int_eq(replay_run(trace, &config, &allocator, &with, &number, &expected), 0);
}

static const struct replay_config usual = { .round_trip = { 20 * NS_PER_MS },
					    .rate = UINT64_C(1) << 30 };

/* At most so much of what came from the origin was not read. */
static void check_cost(double most)
{
	ck_assert_msg((double)with.fetched_bytes <= most * (double)with.wanted_bytes,
		      "%llu fetched for %llu", (unsigned long long)with.fetched_bytes,
		      (unsigned long long)with.wanted_bytes);
}

static void check_stall(double most)
{
	ck_assert_msg((double)with.stalled.ns <= most * (double)without.stalled.ns,
		      "stalled %.3f s with, %.3f s without", (double)with.stalled.ns / NS_PER_S,
		      (double)without.stalled.ns / NS_PER_S);
}

START_TEST(a_file_in_order_costs_itself)
{
	line("0 open 2 d1 r1 s1073741824 \"big\"");
	for (unsigned i = 0; i < 1024; i++)
		line("900 read 2 r3 o%llu l1048576", (unsigned long long)i * MIB);
	replay(usual);
	check_cost(1.0);
	check_stall(0.02);
	ck_assert_uint_eq(with.predictors[PREDICTOR_SEQUENTIAL].wasted_bytes, 0);
}
END_TEST

START_TEST(random_reads_cost_a_tenth_more_at_most)
{
	struct rng rng;

	rng_init(&rng, 1);
	line("0 open 2 d1 r1 s68719476736 \"tokens.bin\"");
	for (unsigned i = 0; i < 5000; i++) {
		uint64_t at = rng_below(&rng, 1u << 19) << 17;

		line("900 read 2 r3 o%llu l131072", (unsigned long long)at);
		if (i % 5 == 0)
			line("900 read 2 r3 o%llu l131072", (unsigned long long)at + 131072);
	}
	replay(usual);
	check_cost(1.1);
}
END_TEST

START_TEST(shards_are_there_when_they_are_opened)
{
	for (unsigned s = 0; s < 64; s++) {
		line("0 open %u d1 r1 s67108864 \"shard-%05u.tar\"", 2 + s, s);
		for (unsigned i = 0; i < 64; i++)
			line("1000 read %u r3 o%u l1048576", 2 + s, i * MIB);
	}
	replay(usual);
	check_cost(1.0);
	check_stall(0.05);
}
END_TEST

static void tree(unsigned directories, unsigned files, unsigned bytes)
{
	for (unsigned i = 0; i < directories; i++) {
		line("entry %u d1 t040000 \"n%04u\"", 10 + i, i);
		for (unsigned j = 0; j < files; j++)
			line("entry %u d%u s%u \"%08x.jpg\"", 100000 + i * files + j, 10 + i, bytes,
			     (unsigned)rng_mix(i * files + j));
	}
}

static void epoch(unsigned directories, unsigned files, uint64_t seed)
{
	unsigned count = directories * files, *order = malloc(count * sizeof(*order));
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
	for (unsigned i = 0; i < count; i++) {
		line("100 lookup %u d1 t040000 \"n%04u\"", 10 + order[i] / files, order[i] / files);
		line("10 open %u d%u r5", 100000 + order[i], 10 + order[i] / files);
		line("50 read %u r6 o0 l131072", 100000 + order[i]);
	}
	free(order);
}

START_TEST(a_shuffled_epoch_stalls_a_tenth)
{
	tree(200, 50, 112640);
	epoch(200, 50, 1);
	replay(usual);
	check_cost(1.01);
	check_stall(0.1);
}
END_TEST

START_TEST(epochs_that_do_not_fit_are_followed_when_they_repeat)
{
	struct replay_config config = usual;
	struct replay_result first;

	config.cache_bytes = 300 * (uint64_t)MIB;
	tree(100, 50, 112640);
	epoch(100, 50, 1);
	replay(config);
	first = with;
	epoch(100, 50, 1);
	epoch(100, 50, 1);
	replay(config);
	ck_assert_uint_gt(with.predictors[PREDICTOR_EPOCH].used_count, 4000);
	ck_assert_uint_lt(with.stalled.ns, 2 * first.stalled.ns + 2 * NS_PER_S);
}
END_TEST

START_TEST(headers_of_many_files_do_not_cost_the_files)
{
	for (unsigned i = 0; i < 5000; i++) {
		line("90 open %u d1 r1 s1048576 \"%08x.jpg\"", 2 + i, (unsigned)rng_mix(i));
		line("90 read %u r3 o0 l4096", 2 + i);
	}
	replay(usual);
	ck_assert_uint_le(with.fetched_bytes, 5000 * (uint64_t)(192 * KIB));
}
END_TEST

START_TEST(find_waits_for_a_few_round_trips)
{
	tree(2000, 25, 100);
	line("0 list 1 r1");
	for (unsigned i = 0; i < 2000; i++)
		line("200 list %u d1 r1 \"n%04u\"", 10 + i, i);
	replay(usual);
	check_stall(0.02);
	ck_assert_uint_eq(with.predictors[PREDICTOR_WALK].wasted_count, 0);
}
END_TEST

/* ---- recorded ones: tests/traces ---- */

static const struct recorded {
	const char *name;
	enum predictor_id predictor; /* which is to see it */
	uint64_t used_min;           /* requests of that predictor */
	double cost, stall;          /* at most: bytes for each that is read; of the time without */
} recorded[] = {
	{ "shards", PREDICTOR_SERIES, 60, 1.01, 0.2 },
	{ "epochs-same-order", PREDICTOR_SWEEP, 300, 1.02, 0.2 },
	{ "epochs-new-order", PREDICTOR_SWEEP, 300, 1.02, 0.2 },
	{ "tokens", PREDICTOR_SEQUENTIAL, 0, 1.1, 1.0 },
	{ "safetensors-in-order", PREDICTOR_SEQUENTIAL, 100, 1.01, 0.1 },
	{ "safetensors-out-of-order", PREDICTOR_WHOLE, 50, 1.01, 0.5 },
	{ "find", PREDICTOR_WALK, 200, 1.0, 0.1 },
	{ "os-walk", PREDICTOR_WALK, 200, 1.0, 0.1 },
	{ "grep", PREDICTOR_SWEEP, 300, 1.01, 0.2 },
	{ "compile", PREDICTOR_SWEEP, 10, 2.0, 0.9 },
	{ "tac", PREDICTOR_SEQUENTIAL, 0, 1.01, 1.0 },
};

static void load(const char *name)
{
	const char *directory = getenv("LEASEHOLD_TRACES");
	char path[PATH_MAX];
	FILE *file;

	(void)snprintf(path, sizeof(path), "%s/%s.trace", directory ? directory : "tests/traces",
		       name);
	file = fopen(path, "r");
	ck_assert_msg(file != NULL, "%s", path);
	length = fread(text, 1, sizeof(text), file);
	ck_assert(feof(file) && length > 0);
	fclose(file);
}

START_TEST(what_real_programs_did_is_foreseen)
{
	const struct recorded *t = &recorded[_i];
	double listings;

	load(t->name);
	replay(usual);
	ck_assert_msg(with.predictors[t->predictor].used_count >= t->used_min, "%s: %llu used", t->name,
		      (unsigned long long)with.predictors[t->predictor].used_count);
	/* Attributes and listings come anyway. */
	listings = (double)(without.fetched_bytes - without.wanted_bytes);
	ck_assert_msg((double)with.fetched_bytes <= t->cost * (double)with.wanted_bytes + 1.1 * listings,
		      "%s: %llu fetched for %llu", t->name, (unsigned long long)with.fetched_bytes,
		      (unsigned long long)with.wanted_bytes);
	check_stall(t->stall);
}
END_TEST

START_TEST(a_second_epoch_in_the_same_order_is_foreseen_with_half_a_cache)
{
	struct replay_config config = usual;

	config.cache_bytes = 5 * MIB;
	load("epochs-same-order");
	replay(config);
	ck_assert_uint_ge(with.predictors[PREDICTOR_EPOCH].used_count, 100);
	check_stall(0.6);
}
END_TEST

START_TEST(a_refused_line_is_told)
{
	const char *expected = NULL;
	uint32_t number = 0;

	line("0 close 1");
	line("0 clse 1");
	ck_assert_int_eq(replay_run((struct slice){ (uint8_t *)text, length }, &usual, &allocator,
				    &with, &number, &expected), -EINVAL);
	ck_assert_uint_eq(number, 3);
	ck_assert_ptr_nonnull(expected);
}
END_TEST

static TCase *trace_case(void)
{
	TCase *t = tcase_create("trace");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, a_line_says_what_an_access_was);
	tcase_add_test(t, a_wrong_line_is_refused_with_its_number_and_what_was_expected);
	tcase_add_test(t, what_is_written_can_be_read);
	tcase_add_test(t, a_file_in_order_costs_itself);
	tcase_add_test(t, random_reads_cost_a_tenth_more_at_most);
	tcase_add_test(t, shards_are_there_when_they_are_opened);
	tcase_add_test(t, a_shuffled_epoch_stalls_a_tenth);
	tcase_add_test(t, epochs_that_do_not_fit_are_followed_when_they_repeat);
	tcase_add_test(t, headers_of_many_files_do_not_cost_the_files);
	tcase_add_test(t, find_waits_for_a_few_round_trips);
	tcase_add_loop_test(t, what_real_programs_did_is_foreseen, 0,
			    sizeof(recorded) / sizeof(recorded[0]));
	tcase_add_test(t, a_second_epoch_in_the_same_order_is_foreseen_with_half_a_cache);
	tcase_add_test(t, a_refused_line_is_told);
	return t;
}

UNIT_MAIN("trace", trace_case)
