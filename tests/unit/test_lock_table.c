#include "unit.h"

#include "lease/lock_table.h"
#include "lease/status.h"
#include "tests/unit/lease_unit.h"

static struct test_memory memory;
static const struct allocator allocator = { test_resize, &memory };
static struct lock_table *table;
static uint64_t number;

static void set_up_limited(uint32_t session_max)
{
	const struct lock_limits limits = { session_max, 1000 };

	memory = (struct test_memory){ 0, -1 };
	number = 0;
	ck_assert_int_eq(lock_table_create(&limits, &allocator, 7, &table), 0);
}

static void set_up(void)
{
	set_up_limited(100);
}

static void tear_down(void)
{
	lock_table_check_invariants(table);
	lock_table_destroy(table);
	ck_assert_int_eq(memory.blocks, 0);
}

static struct lock_request request(enum lock_kind kind, uint64_t owner, enum lock_type type,
				   uint64_t start, uint64_t end, uint64_t waiter)
{
	return (struct lock_request){ handle_of(1), kind, owner,
				      { start, end, (uint32_t)owner, (uint8_t)type }, waiter };
}

static uint16_t ask(uint64_t session, const struct lock_request *r)
{
	uint16_t status =
		lock_table_set(table, at_ms(1), (struct session_id){ session }, ++number, r, false);

	lock_table_check_invariants(table);
	return status;
}

/* Ranges of inode 1 by fcntl; `waiter` 0: do not wait. */
static uint16_t lock(uint64_t session, uint64_t owner, enum lock_type type, uint64_t start,
		     uint64_t end, uint64_t waiter)
{
	struct lock_request r = request(LOCK_KIND_FCNTL, owner, type, start, end, waiter);

	return ask(session, &r);
}

static uint16_t flock_(uint64_t session, uint64_t owner, enum lock_type type, uint64_t waiter)
{
	struct lock_request r = request(LOCK_KIND_FLOCK, owner, type, 0, LOCK_END, waiter);

	return ask(session, &r);
}

static void settle(uint64_t session, uint64_t waiter, bool take)
{
	lock_table_settle(table, at_ms(2), (struct session_id){ session }, waiter, take);
	lock_table_check_invariants(table);
}

static void expect_offer(uint64_t session, uint64_t waiter, uint16_t status)
{
	struct session_id to;
	uint64_t offered;
	uint16_t as;

	ck_assert(lock_table_offer(table, &to, &offered, &as));
	ck_assert_uint_eq(to.value, session);
	ck_assert_uint_eq(offered, waiter);
	ck_assert_uint_eq(as, status);
}

static bool holds(uint64_t session, uint64_t owner, enum lock_type type, uint64_t start,
		  uint64_t end)
{
	struct lock_request r = request(LOCK_KIND_FCNTL, owner, type, start, end, 0);

	return lock_table_holds(table, (struct session_id){ session }, &r);
}

START_TEST(readers_share_and_a_writer_does_not)
{
	ck_assert_uint_eq(lock(1, 1, LOCK_TYPE_READ, 0, 9, 0), STATUS_OK);
	ck_assert_uint_eq(lock(2, 1, LOCK_TYPE_READ, 5, 14, 0), STATUS_OK);
	ck_assert_uint_eq(lock(2, 2, LOCK_TYPE_WRITE, 14, 20, 0), STATUS_LOCKED);
	ck_assert_uint_eq(lock(2, 2, LOCK_TYPE_WRITE, 15, 20, 0), STATUS_OK);
}
END_TEST

START_TEST(kinds_do_not_see_each_other)
{
	ck_assert_uint_eq(lock(1, 1, LOCK_TYPE_WRITE, 0, LOCK_END, 0), STATUS_OK);
	ck_assert_uint_eq(flock_(2, 1, LOCK_TYPE_WRITE, 0), STATUS_OK);
	ck_assert_uint_eq(flock_(1, 5, LOCK_TYPE_READ, 0), STATUS_LOCKED);
}
END_TEST

START_TEST(owners_of_different_sessions_are_different)
{
	ck_assert_uint_eq(lock(1, 1, LOCK_TYPE_WRITE, 0, 9, 0), STATUS_OK);
	ck_assert_uint_eq(lock(2, 1, LOCK_TYPE_WRITE, 0, 9, 0), STATUS_LOCKED);
	ck_assert_uint_eq(lock(1, 1, LOCK_TYPE_READ, 3, 4, 0), STATUS_OK);
	ck_assert_uint_eq(lock(2, 1, LOCK_TYPE_READ, 3, 4, 0), STATUS_OK);
}
END_TEST

START_TEST(what_became_free_is_offered_to_the_first_first)
{
	ck_assert_uint_eq(lock(1, 1, LOCK_TYPE_WRITE, 0, 9, 0), STATUS_OK);
	ck_assert_uint_eq(lock(2, 1, LOCK_TYPE_WRITE, 0, 9, 11), STATUS_LOCKWAITS);
	ck_assert_uint_eq(lock(3, 1, LOCK_TYPE_WRITE, 0, 9, 12), STATUS_LOCKWAITS);
	ck_assert(!lock_table_has_offer(table));
	ck_assert_uint_eq(lock(1, 1, LOCK_TYPE_NONE, 0, 9, 0), STATUS_OK);
	expect_offer(2, 11, STATUS_OK);
	ck_assert(!lock_table_has_offer(table));
	/* Offered is not held yet, and keeps others out. */
	ck_assert(!holds(2, 1, LOCK_TYPE_WRITE, 0, 9));
	ck_assert_uint_eq(lock(1, 1, LOCK_TYPE_READ, 0, 0, 0), STATUS_LOCKED);
	settle(2, 11, true);
	ck_assert(holds(2, 1, LOCK_TYPE_WRITE, 0, 9));
	settle(2, 11, false); /* a repetition of anything changes nothing */
	ck_assert(holds(2, 1, LOCK_TYPE_WRITE, 0, 9));
	ck_assert_uint_eq(lock(2, 1, LOCK_TYPE_NONE, 0, LOCK_END, 0), STATUS_OK);
	expect_offer(3, 12, STATUS_OK);
}
END_TEST

START_TEST(a_reader_does_not_wait_behind_a_waiting_writer)
{
	ck_assert_uint_eq(lock(1, 1, LOCK_TYPE_READ, 0, 9, 0), STATUS_OK);
	ck_assert_uint_eq(lock(2, 1, LOCK_TYPE_WRITE, 0, 9, 11), STATUS_LOCKWAITS);
	ck_assert_uint_eq(lock(3, 1, LOCK_TYPE_READ, 0, 9, 0), STATUS_OK);
}
END_TEST

START_TEST(who_gives_up_an_offer_gives_it_to_the_next)
{
	ck_assert_uint_eq(lock(1, 1, LOCK_TYPE_WRITE, 0, 9, 0), STATUS_OK);
	ck_assert_uint_eq(lock(2, 1, LOCK_TYPE_WRITE, 0, 9, 11), STATUS_LOCKWAITS);
	ck_assert_uint_eq(lock(3, 1, LOCK_TYPE_READ, 0, 9, 12), STATUS_LOCKWAITS);
	ck_assert_uint_eq(lock(1, 1, LOCK_TYPE_NONE, 0, 9, 0), STATUS_OK);
	expect_offer(2, 11, STATUS_OK);
	settle(2, 11, false);
	expect_offer(3, 12, STATUS_OK);
}
END_TEST

START_TEST(an_upgrade_keeps_what_it_had_until_it_is_granted)
{
	ck_assert_uint_eq(lock(1, 1, LOCK_TYPE_READ, 0, 9, 0), STATUS_OK);
	ck_assert_uint_eq(lock(2, 1, LOCK_TYPE_READ, 0, 9, 0), STATUS_OK);
	ck_assert_uint_eq(lock(1, 1, LOCK_TYPE_WRITE, 0, 9, 0), STATUS_LOCKED);
	ck_assert_uint_eq(lock(1, 1, LOCK_TYPE_WRITE, 0, 9, 11), STATUS_LOCKWAITS);
	ck_assert(holds(1, 1, LOCK_TYPE_READ, 0, 9));
	ck_assert_uint_eq(lock(2, 1, LOCK_TYPE_WRITE, 0, 9, 12), STATUS_DEADLOCK);
	ck_assert_uint_eq(lock(2, 1, LOCK_TYPE_NONE, 0, 9, 0), STATUS_OK);
	expect_offer(1, 11, STATUS_OK);
	settle(1, 11, true);
	ck_assert(holds(1, 1, LOCK_TYPE_WRITE, 0, 9));
}
END_TEST

START_TEST(a_downgrade_lets_readers_in)
{
	ck_assert_uint_eq(lock(1, 1, LOCK_TYPE_WRITE, 0, 9, 0), STATUS_OK);
	ck_assert_uint_eq(lock(2, 1, LOCK_TYPE_READ, 0, 4, 11), STATUS_LOCKWAITS);
	ck_assert_uint_eq(lock(1, 1, LOCK_TYPE_READ, 0, 4, 0), STATUS_OK);
	expect_offer(2, 11, STATUS_OK);
	ck_assert(holds(1, 1, LOCK_TYPE_WRITE, 5, 9));
}
END_TEST

START_TEST(converting_a_flock_gives_up_the_old_one_first)
{
	ck_assert_uint_eq(flock_(1, 1, LOCK_TYPE_READ, 0), STATUS_OK);
	ck_assert_uint_eq(flock_(2, 1, LOCK_TYPE_READ, 0), STATUS_OK);
	/* Both convert: no deadlock, and the first that asked is without a lock. */
	ck_assert_uint_eq(flock_(1, 1, LOCK_TYPE_WRITE, 11), STATUS_LOCKWAITS);
	ck_assert_uint_eq(flock_(2, 1, LOCK_TYPE_WRITE, 0), STATUS_OK);
	ck_assert_uint_eq(flock_(2, 1, LOCK_TYPE_NONE, 0), STATUS_OK);
	expect_offer(1, 11, STATUS_OK);
	settle(1, 11, true);
	ck_assert_uint_eq(flock_(2, 1, LOCK_TYPE_READ, 0), STATUS_LOCKED);
}
END_TEST

START_TEST(a_circle_through_three_sessions_is_a_deadlock)
{
	ck_assert_uint_eq(lock(1, 1, LOCK_TYPE_WRITE, 1, 1, 0), STATUS_OK);
	ck_assert_uint_eq(lock(2, 1, LOCK_TYPE_WRITE, 2, 2, 0), STATUS_OK);
	ck_assert_uint_eq(lock(3, 1, LOCK_TYPE_WRITE, 3, 3, 0), STATUS_OK);
	ck_assert_uint_eq(lock(1, 1, LOCK_TYPE_WRITE, 2, 2, 11), STATUS_LOCKWAITS);
	ck_assert_uint_eq(lock(2, 1, LOCK_TYPE_WRITE, 3, 3, 12), STATUS_LOCKWAITS);
	ck_assert_uint_eq(lock(3, 1, LOCK_TYPE_WRITE, 1, 1, 0), STATUS_LOCKED);
	ck_assert_uint_eq(lock(3, 1, LOCK_TYPE_WRITE, 1, 1, 13), STATUS_DEADLOCK);
	ck_assert_uint_eq(lock(3, 1, LOCK_TYPE_NONE, 3, 3, 0), STATUS_OK);
	expect_offer(2, 12, STATUS_OK);
}
END_TEST

/* Linux finds this one when the waiter is woken; here it is told as soon as it comes about. */
START_TEST(a_circle_that_another_thread_closes_is_refused_later)
{
	ck_assert_uint_eq(lock(1, 1, LOCK_TYPE_WRITE, 1, 1, 0), STATUS_OK);
	ck_assert_uint_eq(lock(2, 1, LOCK_TYPE_READ, 2, 2, 0), STATUS_OK);
	/* 1 waits for 2, and one thread of 3 for 1. */
	ck_assert_uint_eq(lock(1, 1, LOCK_TYPE_WRITE, 2, 2, 11), STATUS_LOCKWAITS);
	ck_assert_uint_eq(lock(3, 1, LOCK_TYPE_WRITE, 1, 1, 12), STATUS_LOCKWAITS);
	/* Another thread of 3 gets what 1 waits for. */
	ck_assert_uint_eq(lock(3, 1, LOCK_TYPE_READ, 2, 2, 0), STATUS_OK);
	expect_offer(1, 11, STATUS_DEADLOCK);
	settle(1, 11, true); /* there is nothing to take */
	ck_assert(!holds(1, 1, LOCK_TYPE_WRITE, 2, 2));
}
END_TEST

START_TEST(a_repetition_is_answered_and_changes_nothing)
{
	struct lock_request w = request(LOCK_KIND_FCNTL, 1, LOCK_TYPE_WRITE, 0, 9, 0);
	struct lock_request none = request(LOCK_KIND_FCNTL, 1, LOCK_TYPE_NONE, 0, 9, 0);
	struct session_id one = { 1 };

	ck_assert_uint_eq(lock_table_set(table, at_ms(1), one, 1, &w, false), STATUS_OK);
	ck_assert_uint_eq(lock_table_set(table, at_ms(1), one, 2, &none, false), STATUS_OK);
	ck_assert_uint_eq(lock_table_set(table, at_ms(1), one, 1, &w, false), STATUS_OK);
	ck_assert(!lock_table_holds(table, one, &w));
	ck_assert_uint_eq(lock_table_set(table, at_ms(1), one, 1 + LOCK_WINDOW, &none, false),
			  STATUS_OK);
	ck_assert_uint_eq(lock_table_set(table, at_ms(1), one, 1, &w, false), STATUS_SUPERSEDED);
	/* One that came while nothing was given stays refused. */
	ck_assert_uint_eq(lock_table_set(table, at_ms(1), one, 70, &w, true), STATUS_PUSHBACK);
	ck_assert_uint_eq(lock_table_set(table, at_ms(1), one, 70, &w, false), STATUS_PUSHBACK);
	ck_assert(!lock_table_holds(table, one, &w));
}
END_TEST

START_TEST(a_test_names_who_is_in_the_way)
{
	struct lock_request r = request(LOCK_KIND_FCNTL, 9, LOCK_TYPE_WRITE, 0, 99, 0);
	struct session_id whose;
	struct lock_range found;

	ck_assert(!lock_table_test(table, (struct session_id){ 1 }, &r, &found, &whose));
	ck_assert_uint_eq(lock(2, 5, LOCK_TYPE_READ, 10, 19, 0), STATUS_OK);
	ck_assert(lock_table_test(table, (struct session_id){ 1 }, &r, &found, &whose));
	ck_assert_uint_eq(whose.value, 2);
	ck_assert_uint_eq(found.start, 10);
	ck_assert_uint_eq(found.end, 19);
	ck_assert_uint_eq(found.pid, 5);
	r.range.type = LOCK_TYPE_READ;
	ck_assert(!lock_table_test(table, (struct session_id){ 1 }, &r, &found, &whose));
}
END_TEST

START_TEST(what_an_ended_session_held_is_free_when_that_is_durable)
{
	struct session_id one = { 1 };

	ck_assert_uint_eq(lock(1, 1, LOCK_TYPE_WRITE, 0, 9, 0), STATUS_OK);
	ck_assert_uint_eq(lock(2, 1, LOCK_TYPE_WRITE, 0, 9, 11), STATUS_LOCKWAITS);
	ck_assert_uint_eq(lock(2, 2, LOCK_TYPE_WRITE, 20, 29, 0), STATUS_OK);
	ck_assert_uint_eq(lock(1, 1, LOCK_TYPE_WRITE, 20, 29, 12), STATUS_LOCKWAITS);
	lock_table_end(table, at_ms(3), one, 5);
	lock_table_check_invariants(table);
	ck_assert(lock_table_has_ended(table));
	ck_assert(!lock_table_has_offer(table));
	lock_table_release(table, at_ms(4), 4);
	ck_assert(!lock_table_has_offer(table));
	lock_table_release(table, at_ms(4), 5);
	expect_offer(2, 11, STATUS_OK);
	ck_assert(!lock_table_has_ended(table));
}
END_TEST

START_TEST(offers_are_sent_again_until_they_are_settled)
{
	struct session_id two = { 2 };

	ck_assert_uint_eq(lock(1, 1, LOCK_TYPE_WRITE, 0, 9, 0), STATUS_OK);
	ck_assert_uint_eq(lock(2, 1, LOCK_TYPE_WRITE, 0, 9, 11), STATUS_LOCKWAITS);
	ck_assert_uint_eq(lock_table_offered_since(table, two).ns, UINT64_MAX);
	ck_assert_uint_eq(lock(1, 1, LOCK_TYPE_NONE, 0, 9, 0), STATUS_OK);
	expect_offer(2, 11, STATUS_OK);
	ck_assert_uint_eq(lock_table_offered_since(table, two).ns, at_ms(1).ns);
	lock_table_resend(table, two);
	expect_offer(2, 11, STATUS_OK);
	settle(2, 11, true);
	lock_table_resend(table, two);
	ck_assert(!lock_table_has_offer(table));
}
END_TEST

START_TEST(only_what_is_free_is_reclaimed)
{
	struct lock_request w = request(LOCK_KIND_FCNTL, 1, LOCK_TYPE_WRITE, 0, 9, 0);
	struct session_id one = { 1 }, two = { 2 };

	ck_assert(!lock_table_reclaim(table, one, &w, false));
	ck_assert(lock_table_reclaim(table, one, &w, true));
	ck_assert(lock_table_reclaim(table, one, &w, false)); /* a repetition that comes late */
	ck_assert(!lock_table_reclaim(table, two, &w, true));
	ck_assert(holds(1, 1, LOCK_TYPE_WRITE, 0, 9));
}
END_TEST

START_TEST(at_the_limit_locks_are_refused_and_unlocking_works)
{
	tear_down();
	set_up_limited(6);
	for (uint64_t i = 0; i < 5; i++)
		ck_assert_uint_eq(lock(1, 1, LOCK_TYPE_READ, i * 10, i * 10 + 4, 0), STATUS_OK);
	ck_assert_uint_eq(lock(1, 1, LOCK_TYPE_READ, 100, 109, 0), STATUS_NOLOCK);
	ck_assert_uint_eq(lock(2, 1, LOCK_TYPE_WRITE, 0, 9, 11), STATUS_LOCKWAITS);
	ck_assert_uint_eq(lock(1, 1, LOCK_TYPE_NONE, 2, 2, 0), STATUS_OK);
	ck_assert_uint_eq(lock(1, 1, LOCK_TYPE_NONE, 0, LOCK_END, 0), STATUS_OK);
	expect_offer(2, 11, STATUS_OK);
}
END_TEST

START_TEST(without_memory_nothing_changes)
{
	ck_assert_uint_eq(lock(1, 1, LOCK_TYPE_WRITE, 0, 9, 0), STATUS_OK);
	for (long after = 0; after < 12; after++) {
		uint16_t status;

		memory.fail_after = after;
		status = lock(2, 1, LOCK_TYPE_WRITE, 5, 9, (uint64_t)(20 + after));
		ck_assert(status == STATUS_NOLOCK || status == STATUS_NOMEM ||
			  status == STATUS_LOCKWAITS);
		memory.fail_after = -1;
		settle(2, (uint64_t)(20 + after), false);
	}
	memory.fail_after = -1;
	ck_assert_uint_eq(lock(1, 1, LOCK_TYPE_NONE, 0, 9, 0), STATUS_OK);
	ck_assert(!lock_table_has_offer(table));
}
END_TEST

/* Each costs what is held, not what waits. */
START_TEST(thousands_wait_for_one_lock)
{
	const uint64_t count = 8000;
	const struct lock_limits limits = { 2 * 8000, 2 * 8000 };
	struct session_id session;
	uint64_t waiter;
	uint16_t status;

	tear_down();
	number = 0;
	ck_assert_int_eq(lock_table_create(&limits, &allocator, 7, &table), 0);
	for (uint64_t i = 0; i <= count; i++) {
		struct lock_request r = request(LOCK_KIND_FCNTL, 1 + i, LOCK_TYPE_WRITE, 0,
						LOCK_END, i);

		ck_assert_uint_eq(lock_table_set(table, at_ms(1), (struct session_id){ 1 },
						 ++number, &r, false),
				  i ? STATUS_LOCKWAITS : STATUS_OK);
	}
	lock_table_check_invariants(table);
	for (uint64_t i = 1; i <= 100; i++) {
		struct lock_request r = request(LOCK_KIND_FCNTL, i, LOCK_TYPE_NONE, 0, LOCK_END, 0);

		ck_assert_uint_eq(lock_table_set(table, at_ms(1), (struct session_id){ 1 },
						 ++number, &r, false), STATUS_OK);
		ck_assert(lock_table_offer(table, &session, &waiter, &status));
		ck_assert_uint_eq(waiter, i);
		ck_assert(!lock_table_has_offer(table));
		lock_table_settle(table, at_ms(1), session, waiter, true);
	}
	lock_table_end(table, at_ms(2), (struct session_id){ 1 }, 1);
	lock_table_release(table, at_ms(2), 1);
}
END_TEST

static TCase *lock_table_case(void)
{
	TCase *tcase = tcase_create("lock_table");

	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_test(tcase, readers_share_and_a_writer_does_not);
	tcase_add_test(tcase, kinds_do_not_see_each_other);
	tcase_add_test(tcase, owners_of_different_sessions_are_different);
	tcase_add_test(tcase, what_became_free_is_offered_to_the_first_first);
	tcase_add_test(tcase, a_reader_does_not_wait_behind_a_waiting_writer);
	tcase_add_test(tcase, who_gives_up_an_offer_gives_it_to_the_next);
	tcase_add_test(tcase, an_upgrade_keeps_what_it_had_until_it_is_granted);
	tcase_add_test(tcase, a_downgrade_lets_readers_in);
	tcase_add_test(tcase, converting_a_flock_gives_up_the_old_one_first);
	tcase_add_test(tcase, a_circle_through_three_sessions_is_a_deadlock);
	tcase_add_test(tcase, a_circle_that_another_thread_closes_is_refused_later);
	tcase_add_test(tcase, a_repetition_is_answered_and_changes_nothing);
	tcase_add_test(tcase, a_test_names_who_is_in_the_way);
	tcase_add_test(tcase, what_an_ended_session_held_is_free_when_that_is_durable);
	tcase_add_test(tcase, offers_are_sent_again_until_they_are_settled);
	tcase_add_test(tcase, only_what_is_free_is_reclaimed);
	tcase_add_test(tcase, at_the_limit_locks_are_refused_and_unlocking_works);
	tcase_add_test(tcase, without_memory_nothing_changes);
	tcase_add_test(tcase, thousands_wait_for_one_lock);
	return tcase;
}

UNIT_MAIN("lock_table", lock_table_case)
