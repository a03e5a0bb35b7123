#include "unit.h"

#include <sys/stat.h>

#include "fs/mount/listing.h"
#include "lease/base/rng.h"

static void append(struct listing *listing, uint64_t cookie, uint64_t number, uint32_t type,
		   const char *name)
{
	const struct item_dirent entry = { .cookie = cookie, .inode = number, .type = type,
					   .name = slice_of(name) };

	ck_assert_int_eq(listing_append(listing, &entry), 0);
}

static void check_find(const struct listing *listing)
{
	ck_assert_int_eq(listing_find(listing, 0, 50), 0);
	ck_assert_int_eq(listing_find(listing, 500, 50), 50);
	ck_assert_int_eq(listing_find(listing, 500, 3), 50);
	ck_assert_int_eq(listing_find(listing, 1000, 0), 100);
	ck_assert_int_eq(listing_find(listing, 5, 0), -1);
}

START_TEST(a_listing_is_continued_at_any_cookie_that_it_has)
{
	struct listing *listing = listing_create(1, 0, 0);

	for (uint64_t i = 1; i <= 100; i++)
		append(listing, i * 10, i, S_IFREG, "n");
	check_find(listing);
	listing_complete(listing);
	ck_assert_ptr_nonnull(listing->packed);
	check_find(listing);
	listing_unref(listing);
}
END_TEST

static const uint32_t types[] = { S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK, 0 };

/* Numbers from `least` to `least + spread`, as they are on different file systems. */
static void check_packed(uint64_t least, uint64_t spread, unsigned count, unsigned seed)
{
	struct listing *listing = listing_create(1, 0, 0);
	struct listing_entry *before = calloc(count, sizeof(*before));
	struct rng rng;
	char name[64];

	ck_assert_ptr_nonnull(before);
	rng_init(&rng, seed);
	for (unsigned i = 0; i < count; i++) {
		uint64_t random = spread == UINT64_MAX ? rng_next(&rng) : rng_next(&rng) % (spread + 1);

		(void)snprintf(name, sizeof(name), "%.*x", (int)(rng_next(&rng) % 40), i);
		append(listing, least + random, least + spread - random, types[i % 8], name);
	}
	for (unsigned i = 0; i < count; i++)
		before[i] = listing_entry(listing, i);
	listing_complete(listing);
	ck_assert_ptr_nonnull(listing->packed);
	ck_assert_ptr_null(listing->entries);
	for (unsigned i = 0; i < count; i++) {
		struct listing_entry after = listing_entry(listing, i);

		if (after.cookie != before[i].cookie || after.number != before[i].number ||
		    after.name_at != before[i].name_at || after.type != before[i].type ||
		    after.name_length != before[i].name_length)
			ck_abort_msg("entry %u of %u is another", i, count);
	}
	free(before);
	listing_unref(listing);
}

START_TEST(what_is_packed_comes_out_as_it_went_in)
{
	for (unsigned bits = 0; bits < 64; bits++) {
		check_packed(0, (UINT64_C(1) << bits) - 1, 100, bits);
		check_packed(UINT64_C(1) << bits, bits, 33, bits);
	}
	check_packed(0, UINT64_MAX, 5000, 1);
	check_packed(UINT64_MAX, 0, 10, 1);
	check_packed(7, 1000, 1, 1);
}
END_TEST

START_TEST(what_others_read_already_is_not_packed)
{
	struct listing *listing = listing_create(1, 0, 0);

	listing_complete(listing); /* empty */
	append(listing, 1, 2, S_IFREG, "n");
	(void)listing_ref(listing);
	listing_complete(listing);
	ck_assert_ptr_null(listing->packed);
	listing_unref(listing);
	append(listing, 2, 3, S_IFREG, "m");
	listing_complete(listing);
	ck_assert_ptr_nonnull(listing->packed);
	ck_assert_uint_eq(listing_entry(listing, 1).number, 3);
	listing_unref(listing);
}
END_TEST

static TCase *listing_case(void)
{
	TCase *tcase = tcase_create("listing");

	tcase_add_test(tcase, a_listing_is_continued_at_any_cookie_that_it_has);
	tcase_add_test(tcase, what_is_packed_comes_out_as_it_went_in);
	tcase_add_test(tcase, what_others_read_already_is_not_packed);
	return tcase;
}

UNIT_MAIN("listing", listing_case)
