#include "unit.h"

#include "fs/origin/courtesy.h"
#include "tests/unit/lease_unit.h"

static struct courtesy c;

static void set_up(void)
{
	c = (struct courtesy){ .count = 0 };
}

static struct lock_request request(uint64_t owner, enum lock_type type, uint64_t start,
				   uint64_t end)
{
	return (struct lock_request){ handle_of(1), LOCK_KIND_FCNTL, owner,
				      { start, end, 0, (uint8_t)type }, 0 };
}

static void refused(uint64_t ms, uint64_t session, uint64_t owner, enum lock_type type,
		    uint64_t start, uint64_t end)
{
	struct lock_request r = request(owner, type, start, end);

	courtesy_refused(&c, at_ms(ms), (struct session_id){ session }, &r);
}

static void granted(uint64_t session, uint64_t owner, enum lock_type type, uint64_t start,
		    uint64_t end)
{
	struct lock_request r = request(owner, type, start, end);

	courtesy_granted(&c, (struct session_id){ session }, &r);
}

/* The sessions that go before this try, as decimal digits. */
static uint64_t before(uint64_t ms, uint64_t session, uint64_t owner, enum lock_type type,
		       uint64_t start, uint64_t end)
{
	struct lock_request r = request(owner, type, start, end);
	const struct courtesy_refusal *found = NULL;
	uint64_t digits = 0;

	while ((found = courtesy_before(&c, at_ms(ms), (struct session_id){ session }, &r, found)))
		digits = digits * 10 + found->session.value;
	return digits;
}

START_TEST(nobody_goes_first_unless_he_was_refused)
{
	ck_assert_uint_eq(before(1, 1, 1, LOCK_TYPE_WRITE, 0, 9), 0);
	refused(1, 2, 1, LOCK_TYPE_WRITE, 0, 9);
	ck_assert_uint_eq(before(2, 1, 1, LOCK_TYPE_WRITE, 5, 5), 2);
	ck_assert_uint_eq(before(2, 1, 1, LOCK_TYPE_READ, 5, 5), 2);
	ck_assert_uint_eq(before(2, 1, 1, LOCK_TYPE_WRITE, 10, 19), 0);
}
END_TEST

START_TEST(readers_do_not_go_before_readers)
{
	refused(1, 2, 1, LOCK_TYPE_READ, 0, 9);
	ck_assert_uint_eq(before(2, 1, 1, LOCK_TYPE_READ, 0, 9), 0);
	ck_assert_uint_eq(before(2, 1, 1, LOCK_TYPE_WRITE, 0, 9), 2);
}
END_TEST

START_TEST(nobody_waits_for_his_own_host)
{
	refused(1, 2, 1, LOCK_TYPE_WRITE, 0, 9);
	ck_assert_uint_eq(before(2, 2, 7, LOCK_TYPE_WRITE, 0, 9), 0);
}
END_TEST

START_TEST(who_was_refused_first_goes_first)
{
	refused(1, 2, 1, LOCK_TYPE_WRITE, 0, 9);
	refused(2, 3, 1, LOCK_TYPE_WRITE, 0, 9);
	refused(3, 2, 1, LOCK_TYPE_WRITE, 0, 9);
	ck_assert_uint_eq(before(4, 1, 1, LOCK_TYPE_WRITE, 0, 9), 23);
	ck_assert_uint_eq(before(4, 2, 1, LOCK_TYPE_WRITE, 0, 9), 0);
	ck_assert_uint_eq(before(4, 3, 1, LOCK_TYPE_WRITE, 0, 9), 2);
}
END_TEST

START_TEST(who_got_what_he_tried_for_is_forgotten)
{
	refused(1, 2, 1, LOCK_TYPE_WRITE, 5, 9);
	granted(2, 1, LOCK_TYPE_READ, 5, 9);
	granted(2, 1, LOCK_TYPE_WRITE, 0, 4);
	granted(2, 8, LOCK_TYPE_WRITE, 5, 9);
	ck_assert_uint_eq(before(2, 1, 1, LOCK_TYPE_WRITE, 0, 9), 2);
	granted(2, 1, LOCK_TYPE_WRITE, 5, 9);
	ck_assert_uint_eq(before(2, 1, 1, LOCK_TYPE_WRITE, 0, 9), 0);
}
END_TEST

START_TEST(who_does_not_come_back_is_forgotten)
{
	refused(1, 2, 1, LOCK_TYPE_WRITE, 0, 9);
	ck_assert_uint_eq(before(COURTESY_MEMORY_MS, 1, 1, LOCK_TYPE_WRITE, 0, 9), 2);
	ck_assert_uint_eq(before(COURTESY_MEMORY_MS + 1, 1, 1, LOCK_TYPE_WRITE, 0, 9), 0);
	refused(COURTESY_MEMORY_MS, 2, 1, LOCK_TYPE_WRITE, 0, 9);
	ck_assert_uint_eq(before(COURTESY_MEMORY_MS + 1, 1, 1, LOCK_TYPE_WRITE, 0, 9), 2);
}
END_TEST

START_TEST(after_the_wait_all_are_forgotten_that_it_was_for)
{
	struct lock_request r = request(1, LOCK_TYPE_WRITE, 0, 9);

	refused(1, 2, 1, LOCK_TYPE_WRITE, 0, 9);
	refused(1, 3, 1, LOCK_TYPE_WRITE, 0, 9);
	refused(1, 4, 1, LOCK_TYPE_WRITE, 10, 19);
	courtesy_forget(&c, at_ms(2), (struct session_id){ 1 }, &r);
	ck_assert_uint_eq(before(2, 1, 1, LOCK_TYPE_WRITE, 0, 9), 0);
	ck_assert_uint_eq(before(2, 1, 1, LOCK_TYPE_WRITE, 0, 19), 4);
}
END_TEST

START_TEST(of_many_the_latest_are_remembered)
{
	for (uint64_t i = 0; i < COURTESY_MAX + 2; i++)
		refused(1 + i, 2, i, LOCK_TYPE_WRITE, i, i);
	ck_assert_uint_eq(c.count, COURTESY_MAX);
	ck_assert_uint_eq(before(100, 1, 1, LOCK_TYPE_WRITE, 0, 0), 0);
	ck_assert_uint_eq(before(100, 1, 1, LOCK_TYPE_WRITE, 1, 1), 0);
	ck_assert_uint_eq(before(100, 1, 1, LOCK_TYPE_WRITE, 2, 2), 2);
	ck_assert_uint_eq(before(100, 1, 1, LOCK_TYPE_WRITE, COURTESY_MAX + 1, COURTESY_MAX + 1), 2);
}
END_TEST

static TCase *courtesy_case(void)
{
	TCase *tcase = tcase_create("courtesy");

	tcase_add_checked_fixture(tcase, set_up, NULL);
	tcase_add_test(tcase, nobody_goes_first_unless_he_was_refused);
	tcase_add_test(tcase, readers_do_not_go_before_readers);
	tcase_add_test(tcase, nobody_waits_for_his_own_host);
	tcase_add_test(tcase, who_was_refused_first_goes_first);
	tcase_add_test(tcase, who_got_what_he_tried_for_is_forgotten);
	tcase_add_test(tcase, who_does_not_come_back_is_forgotten);
	tcase_add_test(tcase, after_the_wait_all_are_forgotten_that_it_was_for);
	tcase_add_test(tcase, of_many_the_latest_are_remembered);
	return tcase;
}

UNIT_MAIN("courtesy", courtesy_case)
