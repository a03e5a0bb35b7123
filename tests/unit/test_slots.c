/* What is recorded of slots and intents, across runs of the process. */
#include <errno.h>
#include <sys/stat.h>

#include "fs/origin/slots.h"
#include "tests/unit/scratch.h"
#include "tests/unit/unit.h"

static char path[SCRATCH_PATH_BYTES];
static int path_fd;
static struct slots *s;
static const char *text;

static void open_slots(uint32_t sessions, uint32_t intents, bool reset)
{
	ck_assert_int_eq(slots_open(path_fd, sessions, intents, reset, &s, &text), 0);
}

static void reopen(uint32_t sessions, uint32_t intents, bool reset)
{
	slots_close(s);
	open_slots(sessions, intents, reset);
}

static void setup(void)
{
	path_fd = scratch_make(path);
	open_slots(3, 2, false);
	ck_assert_ptr_null(text);
}

static void teardown(void)
{
	slots_close(s);
	scratch_remove(path, path_fd);
}

static struct slots_session *place_for(uint64_t session)
{
	struct slots_owner owner = { .session = session, .host = { 1 }, .peer = "host1",
				     .export_id = 7, .slot_count = 4 };
	struct slots_session *place;

	ck_assert_int_eq(slots_session_take(s, &place), 0);
	slots_session_set(s, place, &owner);
	return place;
}

static uint64_t session_of(const struct slots_session *place)
{
	struct slots_owner owner;

	slots_session_owner(place, &owner);
	return owner.session;
}

static void store(struct slots_session *place, uint32_t slot, uint64_t sequence, uint32_t count)
{
	uint8_t nodes[] = "nodes";
	struct message_reply reply = { .status = 5, .count = count,
				       .nodes = { nodes, sizeof(nodes) } };

	slots_store(s, place, slot, sequence, &reply);
}

static bool stored(struct slots_session *place, uint32_t slot, uint64_t sequence, uint32_t count)
{
	uint8_t buffer[SLOTS_REPLY_BYTES_MAX];
	struct message_reply reply;

	if (!slots_load(s, place, slot, sequence, buffer, &reply))
		return false;
	ck_assert_uint_eq(reply.status, 5);
	ck_assert_uint_eq(reply.count, count);
	ck_assert_str_eq((const char *)reply.nodes.data, "nodes");
	return true;
}

START_TEST(replies_are_there_in_the_next_run_sessions_in_their_order)
{
	struct slots_session *place = place_for(11), *other = place_for(12);

	store(place, 0, 5, 1);
	store(place, 3, 9, 2);
	store(other, 0, 1, 3);
	slots_session_release(s, place);
	place = place_for(13); /* in the same place, and behind 12 all the same */
	store(place, 1, 2, 4);
	reopen(3, 2, false);
	ck_assert_ptr_null(text);
	other = slots_session_next(s, NULL);
	ck_assert_uint_eq(session_of(other), 12);
	ck_assert(stored(other, 0, 1, 3));
	place = slots_session_next(s, other);
	ck_assert_uint_eq(session_of(place), 13);
	ck_assert(stored(place, 1, 2, 4));
	ck_assert_uint_eq(slots_sequence(place, 0), 0);
	ck_assert_uint_eq(slots_sequence(place, 1), 2);
	ck_assert_uint_eq(slots_sequence(place, 3), 0);
	ck_assert_ptr_null(slots_session_next(s, place));
}
END_TEST

START_TEST(only_the_last_reply_is_kept_and_none_that_comes_late)
{
	struct slots_session *place = place_for(11);

	store(place, 0, 5, 1);
	ck_assert(!stored(place, 0, 4, 1));
	store(place, 0, 7, 2);
	store(place, 0, 6, 3);
	ck_assert(!stored(place, 0, 6, 3));
	ck_assert(stored(place, 0, 7, 2));
	ck_assert(!stored(place, 4, 7, 2));
	slots_store(s, place, 0, 8, NULL);
	ck_assert_uint_eq(slots_sequence(place, 0), 8);
	ck_assert(!stored(place, 0, 8, 0));
}
END_TEST

START_TEST(a_reply_that_is_too_long_is_executed_and_unknown)
{
	struct slots_session *place = place_for(11);
	static uint8_t nodes[SLOTS_REPLY_BYTES_MAX];
	struct message_reply reply = { .nodes = { nodes, sizeof(nodes) } };
	uint8_t buffer[SLOTS_REPLY_BYTES_MAX];

	slots_store(s, place, 0, 1, &reply);
	ck_assert_uint_eq(slots_sequence(place, 0), 1);
	ck_assert(!slots_load(s, place, 0, 1, buffer, &reply));
}
END_TEST

START_TEST(places_are_bounded_and_used_again)
{
	struct slots_session *places[3], *more;
	struct stat before, after;

	for (uint64_t i = 0; i < 3; i++)
		places[i] = place_for(20 + i);
	ck_assert_int_eq(slots_session_take(s, &more), -EAGAIN);
	ck_assert_int_eq(fstatat(path_fd, "slots", &before, 0), 0);
	slots_session_release(s, places[1]);
	store(place_for(30), 0, 1, 1);
	ck_assert_int_eq(fstatat(path_fd, "slots", &after, 0), 0);
	ck_assert_int_eq(before.st_size, after.st_size);
	/* A run with room for fewer still has all that are there. */
	reopen(1, 1, false);
	more = NULL;
	for (unsigned i = 0; i < 3; i++)
		ck_assert_ptr_nonnull(more = slots_session_next(s, more));
	ck_assert_uint_eq(session_of(more), 30);
	ck_assert(stored(more, 0, 1, 1));
	ck_assert_int_eq(slots_session_take(s, &more), -EAGAIN);
}
END_TEST

START_TEST(an_intent_that_stands_is_found_and_one_that_was_ended_is_not)
{
	struct slots_intent *intent = slots_intent_take(s), *ended = slots_intent_take(s);

	memset(intent, 0, offsetof(struct slots_intent, message));
	memset(ended, 0, offsetof(struct slots_intent, message));
	intent->sequence = 9;
	slots_intent_begin(intent);
	slots_intent_begin(ended);
	slots_intent_end(s, ended);
	(void)slots_intent_take(s); /* taken, and never begun */
	reopen(3, 2, false);
	intent = slots_intent_found(s);
	ck_assert_ptr_nonnull(intent);
	ck_assert_uint_eq(intent->sequence, 9);
	slots_intent_end(s, intent);
	ck_assert_ptr_null(slots_intent_found(s));
}
END_TEST

START_TEST(after_a_crash_of_the_machine_nothing_is_believed)
{
	struct slots_intent *intent = slots_intent_take(s);

	store(place_for(11), 0, 1, 1);
	memset(intent, 0, offsetof(struct slots_intent, message));
	slots_intent_begin(intent);
	reopen(3, 2, true);
	ck_assert_ptr_null(text);
	ck_assert_ptr_null(slots_session_next(s, NULL));
	ck_assert_ptr_null(slots_intent_found(s));
	ck_assert_uint_eq(slots_sequence(place_for(12), 0), 0);
}
END_TEST

START_TEST(a_damaged_file_is_started_afresh_and_said)
{
	static const uint8_t bad[64] = { 0xff, 0xff, 0xff, 0xff };
	int fd;

	store(place_for(11), 0, 1, 1);
	slots_close(s);
	fd = openat(path_fd, "slots", O_WRONLY | O_CLOEXEC);
	ck_assert_int_eq(pwrite(fd, bad, sizeof(bad), 4096), (ssize_t)sizeof(bad));
	close(fd);
	open_slots(3, 2, false);
	ck_assert_ptr_nonnull(text);
	ck_assert_ptr_null(slots_session_next(s, NULL));
	/* Cut short. */
	(void)place_for(12);
	slots_close(s);
	fd = openat(path_fd, "slots", O_WRONLY | O_CLOEXEC);
	ck_assert_int_eq(ftruncate(fd, 5000), 0);
	close(fd);
	open_slots(3, 2, false);
	ck_assert_ptr_nonnull(text);
	ck_assert_ptr_null(slots_session_next(s, NULL));
}
END_TEST

/* Killed between two stores; its intent left nothing behind. */
START_TEST(a_slot_whose_first_record_was_begun_has_none)
{
	const off_t state = 4096 + 1024; /* of slot 0 in the first place */
	const uint32_t writing = 1;
	struct slots_session *place = place_for(11);
	int fd = openat(path_fd, "slots", O_WRONLY | O_CLOEXEC);

	ck_assert_int_eq(pwrite(fd, &writing, sizeof(writing), state), sizeof(writing));
	close(fd);
	ck_assert_uint_eq(slots_sequence(place, 0), 0);
}
END_TEST

static TCase *slots_case(void)
{
	TCase *tc = tcase_create("slots");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, replies_are_there_in_the_next_run_sessions_in_their_order);
	tcase_add_test(tc, only_the_last_reply_is_kept_and_none_that_comes_late);
	tcase_add_test(tc, a_reply_that_is_too_long_is_executed_and_unknown);
	tcase_add_test(tc, places_are_bounded_and_used_again);
	tcase_add_test(tc, an_intent_that_stands_is_found_and_one_that_was_ended_is_not);
	tcase_add_test(tc, after_a_crash_of_the_machine_nothing_is_believed);
	tcase_add_test(tc, a_slot_whose_first_record_was_begun_has_none);
	tcase_add_test(tc, a_damaged_file_is_started_afresh_and_said);
	return tc;
}

UNIT_MAIN("slots", slots_case)
