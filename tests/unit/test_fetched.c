/* What was fetched ahead of one file, on whose behalf, and what was read of it. */
#include "unit.h"

#include "prefetch/fetched.h"

static struct fetched *f;
static struct fetched_facts facts;

static void *resize(void *context, void *pointer, size_t old_size, size_t size)
{
	(void)context;
	(void)old_size;
	if (size)
		return realloc(pointer, size);
	free(pointer);
	return NULL;
}

static const struct allocator allocator = { .resize = resize };
static const struct fetched_source sweep = { WISH_GUESS, PREDICTOR_SWEEP, 0 };
static const struct fetched_source user = { WISH_ASKED, 0, 1000 };

static void setup(void)
{
	ck_assert_int_eq(fetched_create(&allocator, &f), 0);
}

static void teardown(void)
{
	fetched_destroy(f);
}

static void sent(uint64_t inode, const struct fetched_source *source, uint64_t offset, uint64_t length)
{
	fetched_sent(f, inode, source, (struct instant){ 5 }, offset, length);
}

START_TEST(what_was_read_of_it_is_told)
{
	ck_assert(!fetched_get(f, 1, &facts));
	fetched_read(f, 1, 0, 10);
	ck_assert(!fetched_get(f, 1, &facts));
	sent(1, &sweep, 100, 50);
	sent(1, &sweep, 200, 50);
	fetched_read(f, 1, 0, 100); /* before it */
	ck_assert(fetched_get(f, 1, &facts));
	ck_assert_uint_eq(facts.bytes, 100);
	ck_assert_uint_eq(facts.read_bytes, 0);
	ck_assert_int_eq(facts.source.class, WISH_GUESS);
	ck_assert_int_eq(facts.source.predictor, PREDICTOR_SWEEP);
	ck_assert_uint_eq(facts.at.ns, 5);
	fetched_read(f, 1, 90, 20);
	ck_assert(fetched_get(f, 1, &facts));
	ck_assert_uint_eq(facts.read_bytes, 10);
	fetched_read(f, 1, 0, UINT64_MAX);
	fetched_read(f, 1, 0, UINT64_MAX);
	ck_assert(fetched_get(f, 1, &facts));
	ck_assert_uint_eq(facts.read_bytes, 100);
}
END_TEST

START_TEST(the_last_who_had_it_fetched_is_told)
{
	sent(1, &sweep, 0, 50);
	fetched_read(f, 1, 0, 50);
	sent(1, &user, 50, 30);
	ck_assert(fetched_get(f, 1, &facts));
	ck_assert_int_eq(facts.source.class, WISH_ASKED);
	ck_assert_uint_eq(facts.source.uid, 1000);
	ck_assert_uint_eq(facts.bytes, 30);
	ck_assert_uint_eq(facts.read_bytes, 0);
}
END_TEST

START_TEST(what_did_not_come_was_not_fetched)
{
	sent(1, &sweep, 0, 50);
	sent(1, &sweep, 50, 50);
	fetched_read(f, 1, 0, 100);
	fetched_failed(f, 1, 50);
	ck_assert(fetched_get(f, 1, &facts));
	ck_assert_uint_eq(facts.bytes, 50);
	ck_assert_uint_eq(facts.read_bytes, 50);
	fetched_failed(f, 1, 50);
	ck_assert(!fetched_get(f, 1, &facts));
	fetched_failed(f, 1, 50);
}
END_TEST

START_TEST(listings_are_used_by_who_lists)
{
	sent(1, &sweep, FETCHED_LISTING, 1);
	fetched_read(f, 1, 0, 10);
	ck_assert(fetched_get(f, 1, &facts));
	ck_assert(facts.listing && !facts.listed);
	fetched_read(f, 1, FETCHED_LISTING, 0);
	ck_assert(fetched_get(f, 1, &facts));
	ck_assert(facts.listing && facts.listed);
	sent(1, &sweep, FETCHED_LISTING, 1);
	ck_assert(fetched_get(f, 1, &facts));
	ck_assert(facts.listing && !facts.listed);
	fetched_failed(f, 1, 1);
	ck_assert(!fetched_get(f, 1, &facts));
}
END_TEST

START_TEST(the_oldest_are_forgotten)
{
	for (uint64_t i = 1; i <= FETCHED_INODES_MAX + 1; i++)
		sent(i, &sweep, 0, 10);
	ck_assert(!fetched_get(f, 1, &facts));
	ck_assert(fetched_get(f, 2, &facts));
	ck_assert(fetched_get(f, FETCHED_INODES_MAX + 1, &facts));
}
END_TEST

static TCase *fetched_case(void)
{
	TCase *t = tcase_create("fetched");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, what_was_read_of_it_is_told);
	tcase_add_test(t, the_last_who_had_it_fetched_is_told);
	tcase_add_test(t, what_did_not_come_was_not_fetched);
	tcase_add_test(t, listings_are_used_by_who_lists);
	tcase_add_test(t, the_oldest_are_forgotten);
	return t;
}

UNIT_MAIN("fetched", fetched_case)
