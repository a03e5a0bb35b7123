#include "unit.h"

#include "fs/mount/tracer.h"

static struct tracer t;
static char text[1 << 16];

static void setup(void)
{
	tracer_init(&t);
}

static void teardown(void)
{
	tracer_finish(&t);
}

static struct instant at(uint64_t ms)
{
	return (struct instant){ (1000 + ms) * NS_PER_MS };
}

static void read_one(uint64_t ms, uint64_t inode)
{
	const struct access access = { .type = ACCESS_READ, .at = at(ms), .inode = inode, .length = 1 };

	tracer_access(&t, at(ms), &access);
}

static const char *take(uint64_t ms, size_t size)
{
	size_t length;

	ck_assert_int_eq(tracer_take(&t, at(ms), text, size, &length), 0);
	ck_assert_uint_le(length, size);
	text[length] = '\0';
	return text;
}

START_TEST(what_was_done_since_it_was_asked_last_is_told)
{
	read_one(0, 1); /* nobody asked */
	ck_assert_str_eq(take(1, sizeof(text) - 1), "");
	read_one(3, 2);
	read_one(4, 3);
	ck_assert_str_eq(take(5, sizeof(text) - 1), "2000 read 2 l1\n1000 read 3 l1\n");
	ck_assert_str_eq(take(6, sizeof(text) - 1), "");
	read_one(7, 4);
	ck_assert_str_eq(take(8, sizeof(text) - 1), "3000 read 4 l1\n");
}
END_TEST

START_TEST(it_ends_when_nobody_asks_any_more)
{
	(void)take(0, 100);
	read_one(1, 1);
	ck_assert(t.on);
	read_one(20000, 2);
	ck_assert(!t.on && !t.text);
	ck_assert_str_eq(take(20001, sizeof(text) - 1), ""); /* and begins again */
	read_one(20002, 3);
	ck_assert_str_eq(take(20003, sizeof(text) - 1), "1000 read 3 l1\n");
}
END_TEST

START_TEST(lines_are_whole_and_what_is_too_much_is_counted)
{
	unsigned lines = 0, count = 200000;
	unsigned long long dropped = 0;

	(void)take(0, 100);
	for (unsigned i = 0; i < count; i++)
		read_one(1, 1000000 + i);
	for (unsigned i = 0; i < 1000; i++) {
		const char *got = take(2, 1000), *said = strstr(got, "# dropped ");
		size_t length = strlen(got);

		if (!length)
			break;
		ck_assert_int_eq(got[length - 1], '\n');
		dropped += said ? strtoull(said + 10, NULL, 10) : 0;
		for (size_t j = 0; j < length; j++)
			lines += got[j] == '\n';
		lines -= said != NULL;
	}
	ck_assert_uint_lt(lines, count);
	/* What a comment takes is less than a thousand calls of this size could bring. */
	while (*take(2, sizeof(text) - 1))
		for (const char *j = text; (j = strchr(j, '\n')); j++)
			lines++;
	ck_assert_uint_eq(lines + dropped, count);
}
END_TEST

START_TEST(a_buffer_for_nothing_gets_nothing)
{
	(void)take(0, 100);
	read_one(1, 1);
	ck_assert_str_eq(take(2, 1), "");
	ck_assert_str_eq(take(3, 64), "");
	ck_assert_str_eq(take(4, sizeof(text) - 1), "1000 read 1 l1\n");
}
END_TEST

static TCase *tracer_case(void)
{
	TCase *c = tcase_create("tracer");

	tcase_add_checked_fixture(c, setup, teardown);
	tcase_add_test(c, what_was_done_since_it_was_asked_last_is_told);
	tcase_add_test(c, it_ends_when_nobody_asks_any_more);
	tcase_add_test(c, lines_are_whole_and_what_is_too_much_is_counted);
	tcase_add_test(c, a_buffer_for_nothing_gets_nothing);
	return c;
}

UNIT_MAIN("tracer", tracer_case)
