#include "unit.h"

#include <stdlib.h>

#include "fs/mount/slab.h"
#include "lease/base/rng.h"

static bool filled_with(const unsigned char *object, unsigned char byte, size_t bytes)
{
	size_t i = 0;

	while (i < bytes && object[i] == byte)
		i++;
	return i == bytes;
}

/* What was allocated holds its pattern until it is freed, whatever else comes and goes. */
START_TEST(objects_of_all_sizes_keep_what_is_written_to_them)
{
	enum { COUNT = 4096 };
	struct slab slab;
	struct rng rng;
	static unsigned char *objects[COUNT];
	static size_t sizes[COUNT];

	slab_init(&slab);
	rng_init(&rng, 1);
	for (unsigned i = 0; i < 100000; i++) {
		size_t at = rng_next(&rng) % COUNT;

		if (objects[at]) {
			if (!filled_with(objects[at], at & 0xff, sizes[at]))
				ck_abort_msg("an object of %zu bytes is not what it was", sizes[at]);
			slab_free(&slab, objects[at], sizes[at]);
			objects[at] = NULL;
			continue;
		}
		sizes[at] = 1 + rng_next(&rng) % (SLAB_OBJECT_BYTES_MAX + 40);
		objects[at] = slab_allocate(&slab, sizes[at]);
		if (!objects[at] || (uintptr_t)objects[at] % 8 != 0 ||
		    !filled_with(objects[at], 0, sizes[at]))
			ck_abort_msg("an object of %zu bytes is not new", sizes[at]);
		memset(objects[at], (int)(at & 0xff), sizes[at]);
	}
	for (size_t at = 0; at < COUNT; at++) {
		if (objects[at])
			slab_free(&slab, objects[at], sizes[at]);
		objects[at] = NULL;
	}
	ck_assert_uint_eq(slab.object_count, 0);
	slab_finish(&slab);
}
END_TEST

START_TEST(many_objects_take_little_more_than_they_are_large)
{
	enum { COUNT = 100000 };
	struct slab slab;
	static void *objects[COUNT];

	slab_init(&slab);
	for (unsigned i = 0; i < COUNT; i++) {
		objects[i] = slab_allocate(&slab, 133);
		if (!objects[i])
			ck_abort_msg("no memory");
	}
	if (slab.object_count > 0) /* not with ASan */
		ck_assert_uint_lt(slab.page_count * 4096, COUNT * 136 * 21 / 20);
	for (unsigned i = 0; i < COUNT; i++)
		slab_free(&slab, objects[i], 133);
	slab_finish(&slab);
}
END_TEST

/* Of each size one page stays; the places of the others are used again. */
START_TEST(pages_without_objects_are_given_back_and_found_again)
{
	enum { COUNT = 100000 };
	struct slab slab;
	static void *objects[COUNT];
	struct slab_chunk *chunks = NULL;

	slab_init(&slab);
	for (unsigned round = 0; round < 4; round++) {
		size_t bytes = round % 2 ? 40 : 80; /* the larger first */

		for (unsigned i = 0; i < COUNT; i++) {
			objects[i] = slab_allocate(&slab, bytes);
			if (!objects[i])
				ck_abort_msg("no memory");
		}
		if (round == 0)
			chunks = slab.chunks; /* the newest */
		ck_assert_ptr_eq(slab.chunks, chunks);
		for (unsigned i = 0; i < COUNT; i++)
			slab_free(&slab, objects[(i * 7919u) % COUNT], bytes);
		ck_assert_uint_le(slab.page_count, 2);
	}
	slab_finish(&slab);
}
END_TEST

START_TEST(as_an_allocator_it_moves_what_grows)
{
	struct slab slab;
	struct allocator allocator;
	char *p = NULL;
	size_t size = 0;

	slab_init(&slab);
	allocator = slab_allocator(&slab);
	for (size_t larger = 1; larger < 5000; larger += larger / 3 + 1) {
		p = allocator.resize(allocator.context, p, size, larger);
		ck_assert_ptr_nonnull(p);
		ck_assert(filled_with((unsigned char *)p, 'x', size));
		memset(p, 'x', larger);
		size = larger;
	}
	p = allocator.resize(allocator.context, p, size, 9);
	ck_assert_ptr_nonnull(p);
	ck_assert_int_eq(p[8], 'x');
	ck_assert_ptr_null(allocator.resize(allocator.context, p, 9, 0));
	ck_assert_uint_eq(slab.object_count, 0);
	slab_finish(&slab);
}
END_TEST

static TCase *slab_case(void)
{
	TCase *tcase = tcase_create("slab");

	tcase_add_test(tcase, objects_of_all_sizes_keep_what_is_written_to_them);
	tcase_add_test(tcase, many_objects_take_little_more_than_they_are_large);
	tcase_add_test(tcase, pages_without_objects_are_given_back_and_found_again);
	tcase_add_test(tcase, as_an_allocator_it_moves_what_grows);
	return tcase;
}

UNIT_MAIN("slab", slab_case)
