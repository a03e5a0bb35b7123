/* A job that knows the order, and its window. */
#include "unit.h"

#include "lease/base/rng.h"
#include "prefetch/pace.h"

#define MIB (UINT64_C(1) << 20)

static struct pace p;

/* Asks for as much as it may, in pieces of `bytes`. */
static uint64_t ask_all(uint64_t bytes)
{
	uint64_t count = 0;

	while (pace_may(&p, bytes)) {
		(void)pace_ask(&p, bytes);
		count++;
	}
	return count;
}

static uint64_t over(void)
{
	uint64_t number, count = 0, expected = p.first;

	while (pace_over(&p, &number)) {
		ck_assert_uint_eq(number, expected++);
		count++;
	}
	return count;
}

START_TEST(a_window_ahead_and_no_more)
{
	pace_init(&p, 8 * MIB);
	ck_assert_uint_eq(ask_all(MIB), 8);
	ck_assert_uint_eq(over(), 0);
	pace_used(&p, 0);
	pace_used(&p, 0);
	ck_assert_uint_eq(p.bytes, 7 * MIB);
	ck_assert_uint_eq(over(), 1);
	ck_assert_uint_eq(ask_all(MIB), 1);
	pace_used(&p, 0); /* it is over */
	ck_assert_uint_eq(p.bytes, 8 * MIB);
}
END_TEST

START_TEST(a_piece_larger_than_the_window_goes_alone)
{
	pace_init(&p, 8 * MIB);
	ck_assert_uint_eq(ask_all(20 * MIB), 1);
	ck_assert(!pace_may(&p, 1));
	pace_used(&p, 0);
	ck_assert(pace_may(&p, 1));
	ck_assert_uint_eq(pace_ask(&p, 1), 1);
	ck_assert(!pace_may(&p, 20 * MIB));
	ck_assert(pace_may(&p, 8 * MIB - 1));
}
END_TEST

START_TEST(what_is_read_out_of_order_makes_room_at_once)
{
	pace_init(&p, 8 * MIB);
	ck_assert_uint_eq(ask_all(MIB), 8);
	pace_used(&p, 3);
	pace_used(&p, 1);
	ck_assert(pace_is_used(&p, 3));
	ck_assert(!pace_is_used(&p, 2));
	ck_assert_uint_eq(over(), 0);
	ck_assert_uint_eq(ask_all(MIB), 2);
	pace_used(&p, 0);
	ck_assert_uint_eq(over(), 2);
	ck_assert(pace_is_used(&p, 0));
	pace_used(&p, 2);
	ck_assert_uint_eq(over(), 2);
	ck_assert_uint_eq(p.first, 4);
}
END_TEST

START_TEST(what_is_passed_does_not_hold_the_window)
{
	pace_init(&p, 200 * MIB);
	ck_assert_uint_eq(ask_all(MIB), 200);
	for (uint64_t i = 1; i <= PACE_SLACK; i++)
		pace_used(&p, i);
	ck_assert_uint_eq(over(), 0);
	pace_used(&p, PACE_SLACK + 1);
	ck_assert_uint_eq(over(), PACE_SLACK + 2);
	ck_assert_uint_eq(p.bytes, (200 - PACE_SLACK - 2) * MIB);
}
END_TEST

START_TEST(there_is_a_bound_on_pieces)
{
	pace_init(&p, UINT64_MAX);
	ck_assert_uint_eq(ask_all(1), PACE_PIECES_MAX);
	ck_assert_uint_eq(pace_look_end(&p), PACE_LOOK);
	pace_used(&p, 20);
	ck_assert_uint_eq(pace_look_end(&p), 21 + PACE_LOOK);
	pace_used(&p, 0);
	ck_assert_uint_eq(over(), 1);
	ck_assert_uint_eq(ask_all(1), 1);
	pace_used(&p, PACE_PIECES_MAX);
	ck_assert_uint_eq(pace_look_end(&p), PACE_PIECES_MAX + 1);
}
END_TEST

/* Several readers, each within a few pieces: all are over in the end, and the window is kept. */
START_TEST(readers_nearly_in_order_get_to_the_end)
{
	struct rng rng;
	uint64_t ahead[16], read = 0, number;

	rng_init(&rng, (uint64_t)_i + 1);
	pace_init(&p, 32 * MIB);
	for (unsigned i = 0; i < 16; i++)
		ahead[i] = read++;
	while (p.first < 5000) {
		unsigned reader = (unsigned)rng_below(&rng, 16);

		while (pace_may(&p, MIB))
			(void)pace_ask(&p, MIB);
		ck_assert_uint_le(p.bytes, 32 * MIB);
		if (ahead[reader] < p.next) {
			pace_used(&p, ahead[reader]);
			ahead[reader] = read++;
		}
		while (pace_over(&p, &number))
			;
	}
}
END_TEST

static TCase *pace_case(void)
{
	TCase *tcase = tcase_create("pace");

	tcase_add_test(tcase, a_window_ahead_and_no_more);
	tcase_add_test(tcase, a_piece_larger_than_the_window_goes_alone);
	tcase_add_test(tcase, what_is_read_out_of_order_makes_room_at_once);
	tcase_add_test(tcase, what_is_passed_does_not_hold_the_window);
	tcase_add_test(tcase, there_is_a_bound_on_pieces);
	tcase_add_loop_test(tcase, readers_nearly_in_order_get_to_the_end, 0, 20);
	return tcase;
}

UNIT_MAIN("pace", pace_case)
