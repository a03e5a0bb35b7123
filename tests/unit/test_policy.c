#include "unit.h"

#include <errno.h>
#include <stdlib.h>

#include "fs/cache/policy.h"
#include "lease/base/rng.h"

static void *heap_resize(void *context, void *pointer, size_t old_size, size_t size)
{
	if (size == 0) {
		free(pointer);
		return NULL;
	}
	return realloc(pointer, size);
}

static const struct allocator heap = { heap_resize, NULL };

enum { FILES_MAX = 22000, CACHE_BYTES = 1 << 30 };

/* A cache of whole files, without a disk. */
struct model {
	struct policy policy;
	struct rng rng;
	struct policy_item items[FILES_MAX];
	uint64_t sizes[FILES_MAX];
	uint32_t order[FILES_MAX];
	uint64_t bytes, evicted;
};

static struct model m;

static void start(uint64_t seed)
{
	memset(&m, 0, sizeof(m));
	rng_init(&m.rng, seed);
	ck_assert_int_eq(policy_init(&m.policy, &heap, CACHE_BYTES), 0);
}

static void stop(void)
{
	ck_assert(policy_valid(&m.policy));
	policy_finish(&m.policy);
}

/* `count` files from `first` on, together `share` of the cache, of equal sizes or not. */
static void make_files(uint32_t first, uint32_t count, double share, bool equal)
{
	double each = share * CACHE_BYTES / count;

	for (uint32_t i = first; i < first + count; i++) {
		double factor = equal ? 1 : 0.25 + (double)rng_below(&m.rng, 1000) / 1000 * 1.5;

		m.sizes[i] = (uint64_t)(each * factor);
	}
}

static uint64_t hash_of(uint32_t file)
{
	return rng_mix(file + 1);
}

/* Room as cache_reserve() makes it. */
static bool make_room(struct policy_item *self, uint64_t bytes)
{
	while (m.bytes + bytes > CACHE_BYTES || policy_above_quota(&m.policy, self, bytes)) {
		struct policy_item *victim = policy_victim(&m.policy, self, bytes, NULL);

		if (!victim)
			return false;
		ck_assert_ptr_ne(victim, self);
		ck_assert_uint_gt(victim->bytes, 0);
		m.bytes -= victim->bytes;
		m.evicted += victim->bytes;
		policy_remove(&m.policy, victim, hash_of((uint32_t)(victim - m.items)));
		policy_resize(&m.policy, victim, 0);
	}
	return true;
}

/* Reads a file in pieces; how many of its bytes were there. */
static uint64_t read_file(uint32_t file)
{
	struct policy_item *item = &m.items[file];
	uint64_t hit = item->bytes, piece;

	policy_pass(&m.policy, hit);
	policy_use(&m.policy, item);
	for (uint64_t at = hit; at < m.sizes[file]; at += piece) {
		piece = m.sizes[file] - at < (1 << 20) ? m.sizes[file] - at : 1 << 20;
		policy_pass(&m.policy, piece);
		if (!policy_may_come(&m.policy, item))
			continue;
		if (item->place == POLICY_NOWHERE)
			policy_admit(&m.policy, item, hash_of(file));
		else
			policy_fill(&m.policy, item);
		policy_expect(&m.policy, item, piece);
		if (make_room(item, piece)) {
			policy_resize(&m.policy, item, item->bytes + piece);
			m.bytes += piece;
		}
		if (item->bytes == 0)
			policy_remove(&m.policy, item, hash_of(file));
	}
	return hit;
}

/* Reads all files once; the share of bytes that were there. */
static double epoch(uint32_t first, uint32_t count, bool shuffled)
{
	uint64_t hit = 0, all = 0;

	for (uint32_t i = 0; i < count; i++)
		m.order[i] = first + i;
	for (uint32_t i = count; shuffled && i > 1; i--) {
		uint32_t j = (uint32_t)rng_below(&m.rng, i), other = m.order[j];

		m.order[j] = m.order[i - 1];
		m.order[i - 1] = other;
	}
	for (uint32_t i = 0; i < count; i++) {
		hit += read_file(m.order[i]);
		all += m.sizes[m.order[i]];
	}
	ck_assert(policy_valid(&m.policy));
	ck_assert_uint_le(m.bytes, CACHE_BYTES);
	return (double)hit / (double)all;
}

static void expect_epochs(uint32_t first, uint32_t count, bool shuffled, int epochs, double least)
{
	for (int i = 0; i < epochs; i++) {
		double rate = epoch(first, count, shuffled);

		ck_assert_msg(rate >= least, "epoch %d of %u files: %.3f is under %.3f", i, count,
			      rate, least);
	}
}

static const uint32_t counts[] = { 128, 1000, 8000 };

START_TEST(shuffled_epochs_of_twice_the_cache_hit_a_stable_half)
{
	uint32_t count = counts[_i % 3];

	start((uint64_t)_i);
	make_files(0, count, 2, _i / 3 == 0);
	epoch(0, count, true);
	expect_epochs(0, count, true, 8, 0.45);
	stop();
}
END_TEST

START_TEST(a_loop_over_twice_the_cache_hits_as_much)
{
	uint32_t count = counts[_i];

	start((uint64_t)_i);
	make_files(0, count, 2, true);
	epoch(0, count, false);
	expect_epochs(0, count, false, 8, 0.45);
	stop();
}
END_TEST

START_TEST(a_data_set_of_any_size_hits_most_of_the_share_that_fits)
{
	static const double shares[] = { 0.9, 1.25, 4, 8 };
	double share = shares[_i];

	start((uint64_t)_i);
	make_files(0, 4000, share, true);
	epoch(0, 4000, true);
	expect_epochs(0, 4000, true, 6, share < 1 ? 0.999 : 0.9 / share);
	stop();
}
END_TEST

START_TEST(a_new_working_set_is_taken_in_within_a_few_epochs)
{
	static const double shares[] = { 0.8, 0.3, 2 };

	start((uint64_t)_i);
	make_files(0, 1000, 2, true);
	make_files(1000, 1000, shares[_i], true);
	for (int i = 0; i < 6; i++)
		epoch(0, 1000, true);
	for (int i = 0; i < 3; i++)
		epoch(1000, 1000, true);
	expect_epochs(1000, 1000, true, 4, shares[_i] < 1 ? 0.9 : 0.45);
	stop();
}
END_TEST

START_TEST(what_is_read_once_displaces_nothing_that_is_read_again)
{
	start(1);
	make_files(0, 1000, 0.6, true);
	make_files(1000, 20000, 12, true);
	epoch(0, 1000, true);
	for (uint32_t i = 0; i < 4; i++) {
		expect_epochs(0, 1000, true, 1, 0.95);
		epoch(1000 + i * 5000, 5000, false); /* three times the cache */
	}
	stop();
}
END_TEST

START_TEST(a_file_larger_than_the_cache_keeps_its_beginning)
{
	start(1);
	make_files(0, 1, 3, true);
	epoch(0, 1, false);
	ck_assert_uint_gt(m.items[0].bytes, CACHE_BYTES / 10 * 9);
	expect_epochs(0, 1, false, 3, 0.3);
	ck_assert_uint_eq(m.evicted, 0);
	stop();
}
END_TEST

START_TEST(what_was_found_goes_before_what_is_used)
{
	start(1);
	make_files(0, 200, 1, true);
	make_files(200, 500, 0.8, true);
	for (uint32_t i = 0; i < 200; i++) {
		policy_resize(&m.policy, &m.items[i], m.sizes[i]);
		policy_admit_unused(&m.policy, &m.items[i]);
		m.bytes += m.sizes[i];
	}
	ck_assert(policy_valid(&m.policy));
	for (int i = 0; i < 5; i++)
		epoch(200, 500, true);
	expect_epochs(200, 500, true, 3, 0.9);
	stop();
}
END_TEST

/* ---- what is said of groups ---- */

static void group(uint8_t index, struct policy_group group)
{
	policy_set_group(&m.policy, index, &group);
}

static void put_into(uint32_t first, uint32_t count, uint8_t index)
{
	for (uint32_t i = first; i < first + count; i++)
		policy_regroup(&m.policy, &m.items[i], index, false);
}

static double cached(uint32_t first, uint32_t count)
{
	uint64_t bytes = 0;

	for (uint32_t i = first; i < first + count; i++)
		bytes += m.items[i].bytes;
	return (double)bytes / CACHE_BYTES;
}

START_TEST(what_is_kept_stays_and_others_have_the_rest)
{
	start(7);
	make_files(0, 500, 0.5, true);
	make_files(1000, 4000, 4, true);
	group(1, (struct policy_group){ .kept = true });
	put_into(0, 500, 1);
	epoch(0, 500, true);
	for (int i = 0; i < 12; i++)
		epoch(1000, 4000, true);
	ck_assert(cached(0, 500) > 0.499);
	/* The rest of the cache is used as a cache of that size is. */
	ck_assert(epoch(1000, 4000, true) > 0.08);
	ck_assert(epoch(0, 500, true) > 0.999);
	/* Not kept any more, they go like what nobody uses. */
	group(1, (struct policy_group){ 0 });
	for (int i = 0; i < 3; i++)
		epoch(1000, 4000, true);
	ck_assert(cached(0, 500) < 0.01);
	stop();
}
END_TEST

START_TEST(what_one_file_is_kept_for_is_its_own)
{
	start(8);
	make_files(0, 10, 0.1, true);
	make_files(100, 4000, 4, true);
	epoch(0, 10, false);
	/* Of those that are there already, one. */
	policy_regroup(&m.policy, &m.items[3], 0, true);
	for (int i = 0; i < 12; i++)
		epoch(100, 4000, true);
	ck_assert(policy_is_kept(&m.items[3]));
	ck_assert_uint_eq(m.items[3].bytes, m.sizes[3]);
	ck_assert(cached(0, 10) < 0.02);
	/* Of a file that is in use through the kernel, it is there again afterwards. */
	policy_pin(&m.policy, &m.items[3], true);
	policy_pin(&m.policy, &m.items[3], false);
	ck_assert_int_eq(m.items[3].place, POLICY_KEPT);
	stop();
}
END_TEST

START_TEST(what_is_kept_never_takes_more_than_its_share)
{
	start(9);
	make_files(0, 2000, 2, true);
	make_files(3000, 100, 0.2, true);
	group(1, (struct policy_group){ .kept = true });
	put_into(0, 2000, 1);
	for (int i = 0; i < 4; i++) {
		epoch(0, 2000, true);
		ck_assert_uint_le(m.policy.lists[POLICY_KEPT].bytes, POLICY_KEPT_SHARE(CACHE_BYTES));
	}
	ck_assert_uint_gt(m.policy.lists[POLICY_KEPT].bytes, CACHE_BYTES / 10 * 7);
	/* What is kept and was not used for long gives way to what is to be kept. */
	put_into(3000, 100, 1);
	for (int i = 0; i < 40; i++)
		epoch(3000, 100, true);
	for (int i = 0; i < 400 && cached(3000, 100) < 0.19; i++) {
		policy_pass(&m.policy, CACHE_BYTES / 16);
		epoch(3000, 100, true);
	}
	ck_assert(cached(3000, 100) > 0.19);
	for (uint32_t i = 3000; i < 3100; i++)
		ck_assert_int_eq(m.items[i].place, POLICY_KEPT);
	/* The cache can have less: so can what is kept. */
	policy_limit(&m.policy, CACHE_BYTES / 2);
	ck_assert_ptr_nonnull(policy_victim(&m.policy, NULL, 0, NULL));
	ck_assert_uint_le(m.policy.lists[POLICY_KEPT].bytes, POLICY_KEPT_SHARE(CACHE_BYTES / 2));
	stop();
}
END_TEST

START_TEST(a_quota_is_held_and_leaves_others_alone)
{
	start(10);
	make_files(0, 2000, 2, true);
	make_files(3000, 500, 0.5, true);
	group(1, (struct policy_group){ .quota = 5, .quota_bytes = CACHE_BYTES / 8 });
	group(2, (struct policy_group){ .quota = 5, .quota_bytes = CACHE_BYTES / 8, .ttl_s = 10 });
	put_into(0, 1000, 1);
	put_into(1000, 1000, 2);
	for (int i = 0; i < 6; i++) {
		epoch(3000, 500, true);
		epoch(0, 2000, true);
		ck_assert(cached(0, 2000) <= 0.125);
	}
	ck_assert(cached(0, 2000) > 0.12);
	ck_assert(epoch(3000, 500, true) > 0.999);
	/* When others are read in its place, those go. */
	put_into(5000, 100, 1);
	make_files(5000, 100, 0.1, true);
	for (int i = 0; i < 30; i++)
		epoch(5000, 100, true);
	ck_assert(cached(5000, 100) > 0.09);
	ck_assert(cached(0, 2000) + cached(5000, 100) <= 0.125);
	stop();
}
END_TEST

START_TEST(what_outlived_its_time_goes_first)
{
	start(11);
	make_files(0, 400, 0.4, true);
	make_files(1000, 500, 0.5, true);
	make_files(2000, 300, 0.3, true);
	group(1, (struct policy_group){ .ttl_s = 60 });
	put_into(0, 400, 1);
	policy_time(&m.policy, 1000);
	epoch(0, 400, false);
	epoch(1000, 500, false);
	policy_time(&m.policy, 1050);
	epoch(0, 100, false);
	/* Nothing else has lost its protection; what is new would pass by. */
	policy_time(&m.policy, 1070);
	epoch(2000, 300, false);
	ck_assert(cached(1000, 500) > 0.499);
	ck_assert(cached(0, 100) > 0.099);
	ck_assert(cached(2000, 300) > 0.29);
	/* Without need of room it stays. */
	ck_assert(cached(100, 300) > 0.09);
	stop();
}
END_TEST

START_TEST(what_comes_in_at_the_second_access_or_never)
{
	start(12);
	make_files(0, 100, 0.1, true);
	group(1, (struct policy_group){ .admit = POLICY_ADMIT_NEVER });
	group(2, (struct policy_group){ .admit = POLICY_ADMIT_SECOND });
	put_into(0, 50, 1);
	put_into(50, 50, 2);
	for (int i = 0; i < 3; i++) {
		for (uint32_t f = 0; f < 100; f++)
			policy_access(&m.policy, &m.items[f], hash_of(f));
		epoch(0, 100, false);
		ck_assert(cached(0, 50) == 0);
		ck_assert(i == 0 ? cached(50, 50) == 0 : cached(50, 50) > 0.049);
	}
	/* What is there when the rule comes stays. */
	group(2, (struct policy_group){ .admit = POLICY_ADMIT_NEVER });
	ck_assert(epoch(50, 50, false) > 0.999);
	stop();
}
END_TEST

static unsigned allocations;

static void *failing_resize(void *context, void *pointer, size_t old_size, size_t size)
{
	if (size > 0 && allocations-- == 0) {
		allocations = 0;
		return NULL;
	}
	return heap_resize(context, pointer, old_size, size);
}

START_TEST(without_memory_it_remembers_less)
{
	static const struct allocator failing = { failing_resize, NULL };
	struct policy p;

	allocations = 0;
	ck_assert_int_eq(policy_init(&p, &failing, CACHE_BYTES), -ENOMEM);
	memset(&m, 0, sizeof(m));
	allocations = 1;
	ck_assert_int_eq(policy_init(&m.policy, &failing, CACHE_BYTES), 0);
	make_files(0, 20000, 2, true);
	epoch(0, 20000, true);
	expect_epochs(0, 20000, true, 2, 0.4);
	stop();
}
END_TEST

START_TEST(what_is_done_with_goes_first)
{
	start(1);
	make_files(0, 60, 1.5, true);
	(void)epoch(0, 40, false); /* it is full */
	policy_pin(&m.policy, &m.items[30], true);
	policy_done(&m.policy, &m.items[30]);
	policy_done(&m.policy, &m.items[50]); /* nowhere */
	policy_done(&m.policy, &m.items[20]);
	policy_done(&m.policy, &m.items[10]);
	ck_assert(policy_valid(&m.policy));
	ck_assert_ptr_eq(policy_victim(&m.policy, NULL, 1, NULL), &m.items[20]);
	ck_assert_ptr_eq(policy_victim(&m.policy, NULL, 1, &m.items[20]), &m.items[10]);
	/* When they cannot go, others do. */
	ck_assert_ptr_nonnull(policy_victim(&m.policy, NULL, 1, &m.items[10]));
	ck_assert_uint_ne(policy_victim(&m.policy, NULL, 1, &m.items[10])->place, POLICY_DONE);
	/* What was pinned gets that room, and what is new does. */
	ck_assert_ptr_eq(policy_victim(&m.policy, &m.items[30], 1, NULL), &m.items[20]);
	(void)read_file(55);
	ck_assert_uint_eq(m.items[20].bytes, 0);
	ck_assert_uint_gt(m.items[10].bytes, 0);
	/* Used again, later, it is one like others. */
	policy_use(&m.policy, &m.items[10]);
	ck_assert_uint_eq(m.items[10].place, POLICY_DONE);
	policy_pass(&m.policy, CACHE_BYTES / 4);
	policy_use(&m.policy, &m.items[10]);
	ck_assert_uint_ne(m.items[10].place, POLICY_DONE);
	ck_assert(policy_valid(&m.policy));
	stop();
}
END_TEST

static TCase *policy_case(void)
{
	TCase *tcase = tcase_create("policy");

	tcase_add_loop_test(tcase, shuffled_epochs_of_twice_the_cache_hit_a_stable_half, 0, 6);
	tcase_add_loop_test(tcase, a_loop_over_twice_the_cache_hits_as_much, 0, 3);
	tcase_add_loop_test(tcase, a_data_set_of_any_size_hits_most_of_the_share_that_fits, 0, 4);
	tcase_add_loop_test(tcase, a_new_working_set_is_taken_in_within_a_few_epochs, 0, 3);
	tcase_add_test(tcase, what_is_read_once_displaces_nothing_that_is_read_again);
	tcase_add_test(tcase, a_file_larger_than_the_cache_keeps_its_beginning);
	tcase_add_test(tcase, what_was_found_goes_before_what_is_used);
	tcase_add_test(tcase, without_memory_it_remembers_less);
	tcase_add_test(tcase, what_is_done_with_goes_first);
	tcase_add_test(tcase, what_is_kept_stays_and_others_have_the_rest);
	tcase_add_test(tcase, what_one_file_is_kept_for_is_its_own);
	tcase_add_test(tcase, what_is_kept_never_takes_more_than_its_share);
	tcase_add_test(tcase, a_quota_is_held_and_leaves_others_alone);
	tcase_add_test(tcase, what_outlived_its_time_goes_first);
	tcase_add_test(tcase, what_comes_in_at_the_second_access_or_never);
	return tcase;
}

UNIT_MAIN("policy", policy_case)
