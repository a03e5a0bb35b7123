/* Wishes in, the order in which they go out, and how much is under way. */
#include "unit.h"

#include "prefetch/scheduler.h"

#define MIB (UINT64_C(1) << 20)

static struct scheduler s;
static struct instant now;

static void begin(void)
{
	s = (struct scheduler){ .bytes_max = 32 * MIB, .count_max = 64 };
	now = (struct instant){ 100 * NS_PER_S };
}

static void add(uint64_t inode, enum wish_class class, uint32_t distance)
{
	const struct intent intent = {
		.type = INTENT_RANGE, .inode = inode, .length = MIB, .distance = distance
	};

	scheduler_add(&s, &intent, class, 0);
}

static uint64_t take(void)
{
	struct wish *wish = scheduler_next(&s, now);
	uint64_t inode = wish ? wish->intent.inode : 0;

	if (wish)
		scheduler_remove(&s, wish);
	return inode;
}

START_TEST(by_class_then_the_nearest_then_the_first)
{
	begin();
	add(1, WISH_GUESS, 5);
	add(2, WISH_GUESS, 1);
	add(3, WISH_GUESS, 1);
	add(4, WISH_ASKED, 9);
	add(5, WISH_POLICY, 0);
	ck_assert_uint_eq(scheduler_waiting(&s), 5);
	ck_assert_uint_eq(take(), 4);
	ck_assert_uint_eq(take(), 5);
	ck_assert_uint_eq(take(), 2);
	ck_assert_uint_eq(take(), 3);
	ck_assert_uint_eq(take(), 1);
	ck_assert_uint_eq(take(), 0);
}
END_TEST

static void add_with(uint64_t inode, enum wish_class class, enum intent_priority priority)
{
	const struct intent intent = {
		.type = INTENT_RANGE, .inode = inode, .length = MIB, .priority = (int8_t)priority
	};

	scheduler_add(&s, &intent, class, 0);
}

START_TEST(by_priority_before_class)
{
	begin();
	add_with(1, WISH_ASKED, PRIORITY_LOW);
	add_with(2, WISH_GUESS, PRIORITY_NORMAL);
	add_with(3, WISH_ASKED, PRIORITY_NORMAL);
	add_with(4, WISH_POLICY, PRIORITY_HIGH);
	add_with(5, WISH_ASKED, PRIORITY_LOW);
	/* Once more, and more urgent now; or less, which changes nothing. */
	add_with(5, WISH_ASKED, PRIORITY_HIGH);
	add_with(3, WISH_ASKED, PRIORITY_LOW);
	ck_assert_uint_eq(scheduler_waiting(&s), 5);
	ck_assert_uint_eq(take(), 5);
	ck_assert_uint_eq(take(), 4);
	ck_assert_uint_eq(take(), 3);
	ck_assert_uint_eq(take(), 2);
	ck_assert_uint_eq(take(), 1);
}
END_TEST

START_TEST(what_is_not_to_go_yet_holds_nothing_up)
{
	begin();
	add(1, WISH_ASKED, 0);
	add(2, WISH_GUESS, 0);
	scheduler_next(&s, now)->not_before = instant_add(now, duration_ms(10));
	ck_assert_uint_eq(take(), 2);
	ck_assert_uint_eq(take(), 0);
	ck_assert_uint_eq(scheduler_waiting(&s), 1);
	now = instant_add(now, duration_ms(10));
	ck_assert_uint_eq(take(), 1);
}
END_TEST

START_TEST(a_wish_waits_once)
{
	begin();
	add(1, WISH_GUESS, 5);
	add(1, WISH_GUESS, 2);
	ck_assert_uint_eq(scheduler_waiting(&s), 1);
	add(1, WISH_ASKED, 2);
	ck_assert_uint_eq(scheduler_waiting(&s), 2);
}
END_TEST

START_TEST(when_it_is_full_the_furthest_goes)
{
	begin();
	for (unsigned i = 0; i < SCHEDULER_WISHES_MAX; i++)
		add(i + 1, WISH_GUESS, 10 + i);
	add(9000, WISH_GUESS, 100000);
	ck_assert_uint_eq(s.dropped, 1);
	add(9001, WISH_ASKED, 100000);
	ck_assert_uint_eq(s.dropped, 2);
	ck_assert_uint_eq(scheduler_waiting(&s), SCHEDULER_WISHES_MAX);
	ck_assert_uint_eq(take(), 9001);
	ck_assert_uint_eq(take(), 1);
	for (unsigned i = 2; i < SCHEDULER_WISHES_MAX; i++)
		ck_assert_uint_eq(take(), i);
	ck_assert_uint_eq(take(), 0);
}
END_TEST

START_TEST(what_is_cancelled_is_not_wanted_any_more)
{
	begin();
	add(1, WISH_GUESS, 1);
	add(2, WISH_GUESS, 2);
	scheduler_cancel(&s, 1);
	ck_assert_uint_eq(take(), 2);
	ck_assert_uint_eq(take(), 0);
}
END_TEST

START_TEST(what_is_asked_for_is_found)
{
	const struct intent names = { .type = INTENT_FILES, .directory = 7, .count = 10 };
	const struct intent part = { .type = INTENT_RANGE, .inode = 3, .offset = 100, .length = 50 };

	begin();
	add(1, WISH_ASKED, 1);
	add(2, WISH_GUESS, 1);
	ck_assert_ptr_nonnull(scheduler_add(&s, &names, WISH_ASKED, 0));
	ck_assert_ptr_nonnull(scheduler_add(&s, &part, WISH_ASKED, 0));
	ck_assert_uint_eq(scheduler_asked_count(&s), 3);
	ck_assert(scheduler_asked(&s, 1, 0, 1));
	ck_assert(scheduler_asked(&s, 1, 0, UINT64_MAX));
	ck_assert(!scheduler_asked(&s, 1, MIB, 2 * MIB)); /* behind it */
	ck_assert(!scheduler_asked(&s, 2, 0, 1));	  /* a guess */
	ck_assert(scheduler_asked(&s, 7, 0, 1));
	ck_assert(!scheduler_asked(&s, 3, 0, 100));
	ck_assert(scheduler_asked(&s, 3, 0, 101));
	ck_assert(scheduler_asked(&s, 3, 149, 150));
	ck_assert(!scheduler_asked(&s, 3, 150, 200));
	scheduler_cancel(&s, 7);
	ck_assert(!scheduler_asked(&s, 7, 0, 1));
	ck_assert_uint_eq(scheduler_asked_count(&s), 2);
}
END_TEST

START_TEST(without_demand_there_are_hard_limits)
{
	begin();
	for (unsigned i = 0; i < 32; i++) {
		ck_assert(scheduler_may(&s, now, MIB));
		scheduler_sent(&s, MIB);
	}
	ck_assert(!scheduler_may(&s, now, MIB));
	scheduler_ended(&s, now, now, MIB, 0);
	ck_assert(scheduler_may(&s, now, MIB));
	while (s.count < 64)
		scheduler_sent(&s, 1);
	ck_assert(!scheduler_may(&s, now, 1));
}
END_TEST

/* A link of 100 MB/s and 20 ms for 30 seconds: 2 MB are under way on it. The largest window of the last
   ten, and what arrived in these. */
static uint64_t settle(uint64_t *ret_arrived)
{
	struct {
		struct instant sent;
	} flight[64];
	unsigned first = 0, last = 0, last_20 = 0;
	struct instant busy = now;
	uint64_t most = 0;

	for (unsigned step = 0; step < 120000; step++) {
		now = instant_add(now, (struct duration){ NS_PER_MS / 4 });
		scheduler_demand(&s, now);
		while (last - first < 64 && scheduler_may(&s, now, 128 << 10)) {
			scheduler_sent(&s, 128 << 10);
			flight[last++ % 64].sent = now;
		}
		while (first < last) {
			struct instant sent = flight[first % 64].sent;
			struct instant free = instant_before(busy, sent) ? sent : busy;
			struct instant end = instant_add(free, (struct duration){ 1310720 });

			if (instant_before(now, instant_add(end, (struct duration){ 20 * NS_PER_MS })))
				break;
			busy = end;
			scheduler_ended(&s, now, sent, 128 << 10, 128 << 10);
			first++;
		}
		if (step == 80000)
			last_20 = first;
		if (step >= 80000 && scheduler_window(&s) > most)
			most = scheduler_window(&s);
	}
	*ret_arrived = (uint64_t)(first - last_20) * (128 << 10);
	return most;
}

START_TEST(with_demand_as_much_as_keeps_the_link_busy)
{
	uint64_t window, arrived;

	begin();
	scheduler_demand(&s, now);
	ck_assert_uint_eq(scheduler_window(&s), SCHEDULER_BYTES_MIN);
	window = settle(&arrived);
	ck_assert_uint_ge(window, 2 * MIB);
	ck_assert_uint_le(window, 6 * MIB);
	ck_assert_uint_ge(arrived, 900 * MIB);
	/* When nobody waits any more it is all there for prefetch. */
	now = instant_add(now, SCHEDULER_DEMAND);
	ck_assert(scheduler_may(&s, now, 16 * MIB));
}
END_TEST

static TCase *scheduler_case(void)
{
	TCase *tcase = tcase_create("scheduler");

	tcase_add_test(tcase, by_class_then_the_nearest_then_the_first);
	tcase_add_test(tcase, by_priority_before_class);
	tcase_add_test(tcase, what_is_not_to_go_yet_holds_nothing_up);
	tcase_add_test(tcase, a_wish_waits_once);
	tcase_add_test(tcase, when_it_is_full_the_furthest_goes);
	tcase_add_test(tcase, what_is_cancelled_is_not_wanted_any_more);
	tcase_add_test(tcase, what_is_asked_for_is_found);
	tcase_add_test(tcase, without_demand_there_are_hard_limits);
	tcase_add_test(tcase, with_demand_as_much_as_keeps_the_link_busy);
	return tcase;
}

UNIT_MAIN("scheduler", scheduler_case)
