/* READ: what may be given to the kernel's pages, who shares a fetch, what comes from the cache. */
#include "mount_lab.h"

#define FILE_NUMBER 2

static uint64_t node, fh;

/* A file of `size` bytes that the kernel knows under a lease, open for reading. */
static void begin(uint64_t size)
{
	lab_start();
	node = lab_find_file("f", FILE_NUMBER, size);
	fh = lab_open(node, O_RDONLY);
}

static void answer(struct origin_request *read, uint64_t counter, enum lease_kind lease,
		   const char *text)
{
	origin_answer_read(read, FILE_NUMBER, counter, lease, text, true);
}

/* As answer(), of before any recall. */
static void answer_late(struct origin_request *read, const char *text)
{
	const struct origin_answer late = {
		.before_recalls = true,
		.node_count = 1,
		.nodes = { origin_node(NODE_TARGET, FILE_NUMBER, S_IFREG | 0644, 1, LEASE_READ) },
		.eof = true,
		.data = text,
		.length = strlen(text),
	};

	origin_answer(read, &late);
}

/* Text of so many bytes. */
static const char *large(size_t bytes)
{
	static char text[8192];

	ck_assert_uint_lt(bytes, sizeof(text));
	memset(text, 'x', bytes);
	text[bytes] = 0;
	return text;
}

/* Invalidations of the file's pages that were begun; some of them twice (drop_all.c). */
static unsigned page_notices(void)
{
	unsigned count = 0;

	pthread_mutex_lock(&lab.lock);
	for (unsigned i = 0; i < lab.notice_count; i++)
		if (!lab.notices[i].epoch && lab.notices[i].nodeid == node &&
		    lab.notices[i].offset >= 0)
			count++;
	pthread_mutex_unlock(&lab.lock);
	return count;
}

/* ---- fetches ---- */

START_TEST(a_page_fill_is_strict)
{
	struct origin_request *read;
	uint64_t unique;

	begin(5);
	unique = kernel_read(node, fh, 0, 4096);
	read = origin_expect(MESSAGE_read);
	ck_assert_uint_eq(read->message.read.strict, READ_STRICT | READ_HOLES);
	ck_assert_uint_eq(read->message.read.offset, 0);
	ck_assert_uint_eq(read->message.read.count, 4096); /* no more: the file ends before */
	answer(read, 1, LEASE_READ, "hello");
	kernel_expect_text(unique, "hello");
}
END_TEST

START_TEST(sequential_readers_get_read_ahead_and_random_ones_do_not)
{
	struct origin_request *read;
	uint64_t unique;

	begin(LARGE_FILE_BYTES);
	unique = kernel_read(node, fh, 500000, 4);
	read = origin_expect(MESSAGE_read);
	ck_assert_uint_eq(read->message.read.count, 4);
	origin_answer_read(read, FILE_NUMBER, 1, LEASE_READ, "rand", false);
	kernel_expect_text(unique, "rand");
	unique = kernel_read(node, fh, 500004, 4);
	read = origin_expect(MESSAGE_read);
	ck_assert_uint_eq(read->message.read.count, 4 + lab.options.read_ahead);
	origin_answer_read(read, FILE_NUMBER, 1, LEASE_READ, "next", false);
	kernel_expect_text(unique, "next");
}
END_TEST

START_TEST(behind_a_reader_in_order_more_is_fetched)
{
	struct origin_request *read, *ahead, *swap;
	const uint64_t miss = 128 << 10, end = 1 << 20; /* ahead.h: AHEAD_MISS, AHEAD_BYTES_MIN */
	uint64_t unique, joined;

	lab.options.read_ahead = 1 << 20;
	begin(LARGE_FILE_BYTES);
	unique = kernel_read(node, fh, 0, 4);
	read = origin_expect(MESSAGE_read);
	ck_assert_uint_eq(read->message.read.count, 4 + miss);
	origin_answer_read(read, FILE_NUMBER, 1, LEASE_READ, "zero", false);
	kernel_expect_text(unique, "zero");
	lab_wait_calls();
	unique = kernel_read(node, fh, 4, 4);
	read = origin_expect(MESSAGE_read); /* in no order: there are several connections */
	ahead = origin_expect(MESSAGE_read);
	if (read->message.read.offset > ahead->message.read.offset) {
		swap = read;
		read = ahead;
		ahead = swap;
	}
	ck_assert_uint_eq(read->message.read.offset, 4);
	ck_assert_uint_eq(read->message.read.count, 4 + miss);
	ck_assert_uint_eq(ahead->message.read.offset, 8 + miss);
	ck_assert_uint_eq(ahead->message.read.count, end - miss - 8);
	joined = kernel_read(node, fh, 8 + miss, 4);
	ck_assert(!kernel_answered(joined));
	origin_answer_read(ahead, FILE_NUMBER, 1, LEASE_READ, "next", false);
	kernel_expect_text(joined, "next");
	origin_answer_read(read, FILE_NUMBER, 1, LEASE_READ, "four", false);
	kernel_expect_text(unique, "four");
	lab_wait_calls();
	ck_assert_uint_eq(origin_received(MESSAGE_read), 3);
	ck_assert_uint_eq(lab.m.counters.fetches_shared, 1);
}
END_TEST

/* Each of them reads some of it, and none of them in order. */
START_TEST(behind_readers_that_are_in_order_together_more_is_fetched)
{
	struct origin_request *read, *ahead;
	uint64_t unique, other;

	lab.options.read_ahead = 1 << 20;
	begin(LARGE_FILE_BYTES);
	other = lab_open(node, O_RDONLY);
	unique = kernel_read(node, fh, 0, 4);
	origin_answer_read(origin_expect(MESSAGE_read), FILE_NUMBER, 1, LEASE_READ, "zero", false);
	kernel_expect_text(unique, "zero");
	lab_wait_calls();
	unique = kernel_read(node, other, 4, 4);
	read = origin_expect(MESSAGE_read); /* in no order: there are several connections */
	ahead = origin_expect(MESSAGE_read);
	ck_assert_uint_eq(read->message.read.offset + ahead->message.read.offset,
			  4 + 8 + (128 << 10));
	origin_answer_read(read, FILE_NUMBER, 1, LEASE_READ, "four", false);
	origin_answer_read(ahead, FILE_NUMBER, 1, LEASE_READ, "four", false);
	kernel_expect_text(unique, "four");
	lab_close(node, other);
	lab_wait_calls();
	ck_assert_uint_eq(origin_received(MESSAGE_read), 3);
}
END_TEST

START_TEST(what_was_fetched_under_a_lease_is_read_from_the_cache)
{
	uint64_t unique;

	begin(5);
	unique = kernel_read(node, fh, 0, 4096);
	answer(origin_expect(MESSAGE_read), 1, LEASE_READ, "hello");
	kernel_expect_text(unique, "hello");
	lab_wait_calls(); /* the cache has it when the call is over */
	kernel_expect_text(kernel_read(node, fh, 0, 4096), "hello");
	ck_assert_uint_eq(origin_received(MESSAGE_read), 1);
	ck_assert_uint_eq(lab.m.counters.reads_cached, 1);
}
END_TEST

START_TEST(readers_of_one_range_share_one_fetch)
{
	uint64_t first, second, third;

	begin(LARGE_FILE_BYTES);
	first = kernel_read(node, fh, 0, 8);
	second = kernel_read(node, fh, 0, 4);
	third = kernel_read(node, fh, 4, 4);
	origin_answer_read(origin_expect(MESSAGE_read), FILE_NUMBER, 1, LEASE_READ, "abcdefgh",
			   false);
	kernel_expect_text(first, "abcdefgh");
	kernel_expect_text(second, "abcd");
	kernel_expect_text(third, "efgh");
	ck_assert_uint_eq(origin_received(MESSAGE_read), 1);
	ck_assert_uint_eq(lab.m.counters.fetches_shared, 2);
}
END_TEST

START_TEST(a_range_that_no_fetch_covers_is_fetched_for_itself)
{
	struct origin_request *read;
	uint64_t first, second;

	lab.options.read_ahead = 0;
	begin(LARGE_FILE_BYTES);
	first = kernel_read(node, fh, 0, 4);
	read = origin_expect(MESSAGE_read);
	second = kernel_read(node, fh, 4096, 4);
	origin_answer_read(origin_expect(MESSAGE_read), FILE_NUMBER, 1, LEASE_READ, "4096", false);
	kernel_expect_text(second, "4096");
	ck_assert(!kernel_answered(first));
	origin_answer_read(read, FILE_NUMBER, 1, LEASE_READ, "zero", false);
	kernel_expect_text(first, "zero");
}
END_TEST

START_TEST(an_answer_that_is_too_short_is_asked_for_again)
{
	uint64_t unique;

	begin(LARGE_FILE_BYTES);
	unique = kernel_read(node, fh, 0, 4);
	origin_answer_read(origin_expect(MESSAGE_read), FILE_NUMBER, 1, LEASE_READ, "ab", false);
	origin_answer_read(origin_expect(MESSAGE_read), FILE_NUMBER, 1, LEASE_READ, "abcd", false);
	kernel_expect_text(unique, "abcd");
}
END_TEST

START_TEST(all_who_share_a_fetch_fail_with_it)
{
	uint64_t first, second;

	begin(LARGE_FILE_BYTES);
	first = kernel_read(node, fh, 0, 8);
	second = kernel_read(node, fh, 0, 4);
	origin_answer_status(origin_expect(MESSAGE_read), STATUS_STALE);
	ck_assert_int_eq(kernel_error(first), ESTALE);
	ck_assert_int_eq(kernel_error(second), ESTALE);
}
END_TEST

/* Or what is fetched ahead for somebody, by which nobody else may be kept from reading. */
START_TEST(who_shares_the_fetch_of_another_user_is_not_refused_with_it)
{
	struct origin_request *read;
	uint64_t first, second, third;

	begin(LARGE_FILE_BYTES);
	lab.caller_uid = 1001;
	first = kernel_read(node, fh, 0, 8);
	read = origin_expect(MESSAGE_read);
	lab.caller_uid = 1002;
	second = kernel_read(node, fh, 0, 4);
	third = kernel_read(node, fh, 4, 4);
	ck_assert_uint_eq(lab.m.counters.fetches_shared, 2);
	origin_answer_status(read, STATUS_ACCES);
	ck_assert_int_eq(kernel_error(first), EACCES);
	/* Each asks for itself now, and fails with what it is told then. */
	for (unsigned i = 0; i < 2; i++) {
		read = origin_expect(MESSAGE_read);
		ck_assert_uint_eq(read->message.common.credential.uid, 1002);
		if (read->message.read.offset == 0)
			origin_answer_read(read, FILE_NUMBER, 1, LEASE_READ, "abcd", false);
		else
			origin_answer_status(read, STATUS_ACCES);
	}
	kernel_expect_text(second, "abcd");
	ck_assert_int_eq(kernel_error(third), EACCES);
	ck_assert_uint_eq(origin_received(MESSAGE_read), 3);
}
END_TEST

START_TEST(who_joined_a_fetch_later_has_time_left_when_it_times_out)
{
	struct origin_request *never;
	uint64_t first, second;

	begin(LARGE_FILE_BYTES);
	lab_wait_calls();
	lab.options.timeout = 1000;
	first = kernel_read(node, fh, 0, 8);
	lab.options.timeout = 60000;
	second = kernel_read(node, fh, 0, 4);
	never = origin_expect(MESSAGE_read);
	ck_assert_int_eq(kernel_error(first), ETIMEDOUT);
	answer(origin_expect(MESSAGE_read), 1, LEASE_READ, "late");
	kernel_expect_text(second, "late");
	answer(never, 1, LEASE_READ, "gone");
	ck_assert_uint_eq(lab.m.counters.fetches_shared, 1);
}
END_TEST

START_TEST(a_killed_reader_is_answered_and_the_others_go_on)
{
	uint64_t killed, other;

	begin(LARGE_FILE_BYTES);
	lab.caller = 0;
	killed = kernel_read(node, fh, 0, 8);
	lab.caller = getpid();
	other = kernel_read(node, fh, 0, 4);
	kernel_interrupt(killed);
	ck_assert_int_eq(kernel_error(killed), EINTR);
	answer(origin_expect(MESSAGE_read), 1, LEASE_READ, "live");
	kernel_expect_text(other, "live");
}
END_TEST

/* ---- what the kernel's pages may be filled with (PROTOCOL.md 5.4) ---- */

START_TEST(an_answer_under_the_lease_that_stands_needs_no_new_one)
{
	uint64_t unique;

	begin(4);
	unique = kernel_read(node, fh, 0, 4);
	answer(origin_expect(MESSAGE_read), 1, LEASE_NONE, "same");
	kernel_expect_text(unique, "same");
	lab_wait_calls();
	kernel_expect_text(kernel_read(node, fh, 0, 4), "same");
	ck_assert_uint_eq(origin_received(MESSAGE_read), 1);
}
END_TEST

START_TEST(an_answer_at_another_change_than_the_lease_is_asked_for_again)
{
	uint64_t unique;

	begin(3);
	unique = kernel_read(node, fh, 0, 3);
	answer(origin_expect(MESSAGE_read), 2, LEASE_NONE, "odd");
	answer(origin_expect(MESSAGE_read), 2, LEASE_READ, "new");
	kernel_expect_text(unique, "new");
}
END_TEST

/* The origin granted nothing with it, and nothing stands: nobody would take the page back. */
START_TEST(an_answer_without_any_lease_is_asked_for_again)
{
	uint64_t unique;

	begin(3);
	origin_wait_acknowledged(origin_recall(FILE_NUMBER, NULL));
	unique = kernel_read(node, fh, 0, 3);
	for (unsigned i = 0; i < 3; i++)
		answer(origin_expect(MESSAGE_read), 1, LEASE_NONE, "old");
	answer(origin_expect(MESSAGE_read), 2, LEASE_READ, "new");
	kernel_expect_text(unique, "new");
}
END_TEST

/*
 * The recall's invalidation goes around the page of a READ, whose answer it has forbidden to keep:
 * the kernel gets it, and another invalidation takes it back before the recall is acknowledged.
 */
START_TEST(a_fill_under_a_recall_is_dropped_before_it_is_acknowledged)
{
	uint64_t unique, sequence;
	unsigned before;

	begin(3);
	unique = kernel_read(node, fh, 0, 3);
	kernel_let_notifications(true);
	sequence = origin_recall(FILE_NUMBER, NULL);
	LAB_WAIT(lab.notice_count > 0 && !lab.notices[lab.notice_count - 1].returned);
	ck_assert(!origin_acknowledged(sequence));
	answer(origin_expect(MESSAGE_read), 1, LEASE_NONE, "old");
	kernel_expect_text(unique, "old");
	before = page_notices();
	ck_assert_uint_ge(before, 1);
	kernel_let_notifications(false);
	origin_wait_acknowledged(sequence);
	ck_assert_uint_gt(page_notices(), before);
	lab_wait_calls();
	unique = kernel_read(node, fh, 0, 3);
	answer(origin_expect(MESSAGE_read), 2, LEASE_READ, "new");
	kernel_expect_text(unique, "new");
}
END_TEST

START_TEST(an_answer_that_a_recall_overtook_is_not_kept)
{
	uint64_t unique, sequence;

	begin(3);
	unique = kernel_read(node, fh, 0, 3);
	kernel_let_notifications(true);
	sequence = origin_recall(FILE_NUMBER, NULL);
	LAB_WAIT(lab.notice_count > 0 && !lab.notices[lab.notice_count - 1].returned);
	answer_late(origin_expect(MESSAGE_read), "old"); /* with a lease that is gone already */
	kernel_expect_text(unique, "old");
	kernel_let_notifications(false);
	origin_wait_acknowledged(sequence);
	lab_wait_calls();
	unique = kernel_read(node, fh, 0, 3);
	answer(origin_expect(MESSAGE_read), 2, LEASE_READ, "new");
	kernel_expect_text(unique, "new");
}
END_TEST

/*
 * A fetch goes on when its reader was killed, and a recall can then be done with while it is on its
 * way. Whoever joins it after that must not get what it brings: not even under another recall,
 * which would drop it again, since the first one's change was acknowledged.
 */
START_TEST(who_joins_after_a_recall_does_not_get_an_answer_from_before_it)
{
	struct origin_request *read;
	uint64_t killed, unique, sequence;

	begin(3);
	lab.caller = 0;
	killed = kernel_read(node, fh, 0, 3);
	read = origin_expect(MESSAGE_read);
	sequence = origin_recall(FILE_NUMBER, NULL);
	kernel_interrupt(killed);
	ck_assert_int_eq(kernel_error(killed), EINTR);
	origin_wait_acknowledged(sequence);
	lab.caller = getpid();
	unique = kernel_read(node, fh, 0, 3);
	ck_assert_uint_eq(lab.m.counters.fetches_shared, 1);
	kernel_let_notifications(true);
	sequence = origin_recall(FILE_NUMBER, NULL);
	LAB_WAIT(!lab.notices[lab.notice_count - 1].returned);
	answer_late(read, "old");
	answer(origin_expect(MESSAGE_read), 2, LEASE_NONE, "new"); /* sent under the second recall */
	kernel_expect_text(unique, "new");
	kernel_let_notifications(false);
	origin_wait_acknowledged(sequence);
}
END_TEST

/* The fence of a lost session steps around pages that READs hold, and so does not wait for them. */
START_TEST(the_end_of_a_session_does_not_wait_for_readers)
{
	struct origin_request *first, *second, *refused;
	bool between = false, behind = false;
	uint64_t one, two;
	unsigned before;

	lab.options.read_ahead = 0;
	begin(LARGE_FILE_BYTES);
	one = kernel_read(node, fh, 0, 4096);
	two = kernel_read(node, fh, 8192, 4);
	first = origin_expect(MESSAGE_read);
	second = origin_expect(MESSAGE_read);
	before = kernel_notices();
	(void)kernel_lookup(FUSE_ROOT_ID, "other");
	refused = origin_expect(MESSAGE_lookup);
	origin_forget_session();
	origin_answer_status(refused, STATUS_NOSESSION);
	origin_answer_status(origin_expect(MESSAGE_lookup), STATUS_STALE); /* in the next session */
	pthread_mutex_lock(&lab.lock);
	for (unsigned i = before; i < lab.notice_count; i++) {
		const struct kernel_notice *n = &lab.notices[i];

		if (n->nodeid != node)
			continue;
		ck_assert(n->offset == 4096 || n->offset == 12288);
		ck_assert_int_eq(n->length, n->offset == 4096 ? 4096 : 0);
		between |= n->returned && n->offset == 4096;
		behind |= n->returned && n->offset == 12288;
	}
	pthread_mutex_unlock(&lab.lock);
	ck_assert(between && behind);
	/* What the old session granted is void. */
	answer(first, 1, LEASE_READ, "old");
	answer(origin_expect(MESSAGE_read), 2, LEASE_READ, "new");
	kernel_expect_text(one, "new");
	answer(second, 1, LEASE_READ, "old");
	answer(origin_expect(MESSAGE_read), 2, LEASE_READ, "2nd");
	kernel_expect_text(two, "2nd");
}
END_TEST

/* An answer that was allowed into the kernel by the lease comes before the fence, which takes it out. */
START_TEST(the_end_of_a_session_drops_pages_whose_answer_is_on_its_way)
{
	struct origin_request *read, *refused;
	uint64_t first, second, other;

	begin(LARGE_FILE_BYTES);
	first = kernel_read(node, fh, 0, 4096);
	second = kernel_read(node, fh, 0, 4);
	read = origin_expect(MESSAGE_read);
	kernel_hold_reply(second); /* it is answered first */
	origin_answer_read(read, FILE_NUMBER, 1, LEASE_READ, large(4096), false);
	LAB_WAIT_MOUNT(lab.m.counters.fetches == 1);
	other = kernel_lookup(FUSE_ROOT_ID, "other");
	refused = origin_expect(MESSAGE_lookup);
	origin_forget_session();
	origin_answer_status(refused, STATUS_NOSESSION);
	LAB_WAIT_MOUNT(holder_state(lab.m.holder) != HOLDER_ACTIVE);
	kernel_hold_reply(0);
	ck_assert_int_eq(kernel_error(first), 0);
	ck_assert_int_eq(kernel_error(second), 0);
	origin_answer_status(origin_expect(MESSAGE_lookup), STATUS_STALE); /* in the next session */
	ck_assert_int_eq(kernel_error(other), ESTALE);
	ck_assert_uint_ge(page_notices(), 1);
	ck_assert_int_eq(lab.notices[lab.notice_count - 1].offset, 0);
	ck_assert_int_eq(lab.notices[lab.notice_count - 1].length, 0);
}
END_TEST

/* However many there are. */
START_TEST(the_end_of_a_session_does_not_wait_for_many_readers)
{
	enum { READERS = 100 };
	bool dropped[READERS] = { false };
	uint64_t uniques[READERS];

	lab.options.read_ahead = 0;
	begin(LARGE_FILE_BYTES);
	for (unsigned i = 0; i < READERS; i++)
		uniques[i] = kernel_read(node, fh, 8192 * i, 4);
	LAB_WAIT(lab.stream);
	origin_forget_session();
	pthread_mutex_lock(&lab.lock);
	server_stream_end(lab.stream); /* the next one is refused */
	lab.stream = NULL;
	pthread_mutex_unlock(&lab.lock);
	LAB_WAIT(lab.received[MESSAGE_session_open] == 2);
	pthread_mutex_lock(&lab.lock);
	for (unsigned i = 0; i < lab.notice_count; i++) {
		const struct kernel_notice *n = &lab.notices[i];

		if (n->epoch || n->nodeid != node || n->offset < 0)
			continue;
		ck_assert_int_eq(n->offset % 8192, 4096);
		ck_assert_int_lt(n->offset, 8192 * READERS);
		ck_assert_int_eq(n->length, n->offset / 8192 == READERS - 1 ? 0 : 4096);
		dropped[n->offset / 8192] |= n->returned;
	}
	pthread_mutex_unlock(&lab.lock);
	for (unsigned i = 0; i < READERS; i++) /* between them, and behind the last */
		ck_assert(dropped[i]);
	for (unsigned i = 0; i < READERS; i++)
		ck_assert(!kernel_answered(uniques[i]));
}
END_TEST

/*
 * Nobody may store to a page that comes while a read lease is recalled: there is no lease to write it
 * back under. So the first page for a mapping, which the drop need not touch, waits for its end.
 */
START_TEST(a_page_for_a_mapping_waits_for_the_end_of_a_recall)
{
	uint64_t unique, sequence;
	unsigned token;

	lab_start();
	lab.m.maps_writable = true;
	node = lab_find_file("f", FILE_NUMBER, 3);
	fh = lab_open(node, O_RDWR);
	pthread_mutex_lock(&lab.m.lock);
	token = mount_reply_begin(&lab.m); /* the drop begins later */
	pthread_mutex_unlock(&lab.m.lock);
	sequence = origin_recall(FILE_NUMBER, NULL);
	LAB_WAIT_MOUNT(inode_by_nodeid(&lab.m, node)->live->dropping);
	unique = kernel_read(node, fh, 0, 3);
	answer(origin_expect(MESSAGE_read_exclusive), 1, LEASE_NONE, "old");
	mount_reply_end(&lab.m, token);
	origin_wait_acknowledged(sequence);
	ck_assert(!kernel_answered(unique));
	answer(origin_expect(MESSAGE_read_exclusive), 2, LEASE_WRITE, "new");
	kernel_expect_text(unique, "new");
}
END_TEST

/* And when the kernel is dropping already, and waits for that page, the drop goes on around it. */
START_TEST(a_page_for_a_mapping_does_not_keep_a_recall_waiting)
{
	uint64_t other, unique, sequence;
	struct origin_request *read;
	struct fuse_open_out out;

	lab.options.read_ahead = 0;
	begin(LARGE_FILE_BYTES);
	lab.m.maps_writable = true;
	unique = kernel_read(node, fh, 0, 4);
	answer(origin_expect(MESSAGE_read), 1, LEASE_READ, "old1");
	kernel_expect_text(unique, "old1");
	kernel_let_notifications(true);
	sequence = origin_recall(FILE_NUMBER, NULL);
	LAB_WAIT(lab.notice_count > 0 && !lab.notices[lab.notice_count - 1].returned);
	other = kernel_open(node, O_RDWR);
	origin_answer_status(origin_expect(MESSAGE_open), STATUS_OK);
	ck_assert_int_eq(kernel_error(other), 0);
	memcpy(&out, kernel_wait(other)->data, sizeof(out));
	unique = kernel_read(node, out.fh, 4096, 4);
	read = origin_expect(MESSAGE_read_exclusive);
	kernel_let_notifications(false);
	origin_wait_acknowledged(sequence);
	ck_assert(!kernel_answered(unique));
	answer(read, 2, LEASE_WRITE, "new2");
	kernel_expect_text(unique, "new2");
}
END_TEST

/* ---- changes of the size of what is mapped ---- */

/* A file that is open for reading and writing, and the first page of a mapping under the write lease. */
static void begin_mapped(void)
{
	uint64_t unique;

	lab_start();
	lab.m.maps_writable = true;
	node = lab_find_file("f", FILE_NUMBER, 3);
	fh = lab_open(node, O_RDWR);
	unique = kernel_read(node, fh, 0, 3);
	answer(origin_expect(MESSAGE_read_exclusive), 1, LEASE_WRITE, "map");
	kernel_expect_text(unique, "map");
	lab_wait_calls();
}

static void answer_size(struct origin_request *setattr, uint64_t before, uint64_t after)
{
	struct item_node target = origin_node(NODE_TARGET, FILE_NUMBER, S_IFREG | 0644, after,
					      LEASE_NONE);

	target.before.counter = before;
	origin_answer_node(setattr, &target);
}

/* The kernel writes back only when it is answered, so no drop of pages, which would wait for that. */
START_TEST(a_change_of_the_size_of_what_is_mapped_drops_no_pages)
{
	struct origin_request *setattr;
	uint64_t size, unique;
	unsigned before;

	begin_mapped();
	origin_wait_acknowledged(origin_recall(FILE_NUMBER, NULL));
	before = page_notices();
	size = kernel_setattr(node, FATTR_SIZE, 2, 0);
	setattr = origin_expect(MESSAGE_setattr);
	/* The origin has put the change ahead of whatever may recall this lease. */
	unique = kernel_read(node, fh, 0, 3);
	answer(origin_expect(MESSAGE_read_exclusive), 1, LEASE_WRITE, "old");
	kernel_expect_text(unique, "old");
	answer_size(setattr, 1, 2);
	ck_assert_int_eq(kernel_error(size), 0);
	ck_assert_uint_eq(page_notices(), before);
}
END_TEST

/*
 * It had pages, which are being dropped, when it was mapped and stored to: the kernel cannot drop that page
 * before the change of the size is answered.
 */
START_TEST(a_change_of_the_size_does_not_wait_for_a_page_that_is_stored_to)
{
	struct origin_request *setattr;
	uint64_t size, unique;
	unsigned before;

	lab_start();
	lab.m.maps_writable = true;
	node = lab_find_file("f", FILE_NUMBER, 3);
	unique = kernel_read(node, lab_open(node, O_RDONLY), 0, 3);
	answer(origin_expect(MESSAGE_read), 1, LEASE_READ, "old");
	kernel_expect_text(unique, "old");
	fh = lab_open(node, O_RDWR);
	before = kernel_notices();
	kernel_let_notifications(true);
	size = kernel_setattr(node, FATTR_SIZE, 2, 0);
	LAB_WAIT(lab.notice_count > before && !lab.notices[lab.notice_count - 1].returned);
	unique = kernel_read(node, fh, 0, 3);
	answer(origin_expect(MESSAGE_read_exclusive), 1, LEASE_WRITE, "map");
	kernel_expect_text(unique, "map");
	setattr = origin_expect(MESSAGE_setattr);
	answer_size(setattr, 1, 2);
	ck_assert_int_eq(kernel_error(size), 0);
	kernel_let_notifications(false);
}
END_TEST

/* It ends with the session: else what is stored could not be dropped, and no other session begins. */
START_TEST(a_change_of_the_size_ends_with_the_write_lease_that_was_granted_meanwhile)
{
	struct origin_request *setattr, *keepalive;
	uint64_t size, unique;

	lab.term_ms = 4000;
	begin_mapped();
	origin_wait_acknowledged(origin_recall(FILE_NUMBER, NULL));
	size = kernel_setattr(node, FATTR_SIZE, 2, 0);
	setattr = origin_expect(MESSAGE_setattr);
	unique = kernel_read(node, fh, 0, 3);
	answer(origin_expect(MESSAGE_read_exclusive), 1, LEASE_WRITE, "old");
	kernel_expect_text(unique, "old");
	kernel_hold_notifications_of(node); /* it is stored to: dropped when it was written back */
	origin_asks(MESSAGE_keepalive, true);
	keepalive = origin_expect(MESSAGE_keepalive);
	ck_assert_int_eq(kernel_error(size), EIO);
	ck_assert_uint_eq(lab.m.counters.calls_timed_out, 0);
	kernel_hold_notifications_of(0);
	LAB_WAIT(lab.received[MESSAGE_session_open] == 2);
	origin_asks(MESSAGE_keepalive, false);
	origin_keep_alive(keepalive->request, 1);
	free(keepalive);
	answer_size(setattr, 1, 2);
}
END_TEST

/* What was sent ahead under the write lease is no error when that is given up before it was done. */
START_TEST(a_change_of_the_size_outlives_the_write_lease)
{
	struct origin_request *setattr;
	uint64_t size;

	begin_mapped();
	size = kernel_setattr(node, FATTR_SIZE, 2, 0);
	setattr = origin_expect(MESSAGE_setattr);
	origin_wait_acknowledged(origin_recall(FILE_NUMBER, NULL));
	usleep(300000); /* the ticker would have found it */
	ck_assert(!kernel_answered(size));
	answer_size(setattr, 2, 3);
	ck_assert_int_eq(kernel_error(size), 0);
	lab_wait_calls();
	pthread_mutex_lock(&lab.m.lock);
	ck_assert_uint_eq(inode_by_nodeid(&lab.m, node)->live->hold_count, 0);
	pthread_mutex_unlock(&lab.m.lock);
}
END_TEST

static TCase *read_case(void)
{
	TCase *tcase = lab_case("mount_read");

	tcase_add_test(tcase, a_page_fill_is_strict);
	tcase_add_test(tcase, sequential_readers_get_read_ahead_and_random_ones_do_not);
	tcase_add_test(tcase, behind_a_reader_in_order_more_is_fetched);
	tcase_add_test(tcase, behind_readers_that_are_in_order_together_more_is_fetched);
	tcase_add_test(tcase, what_was_fetched_under_a_lease_is_read_from_the_cache);
	tcase_add_test(tcase, readers_of_one_range_share_one_fetch);
	tcase_add_test(tcase, a_range_that_no_fetch_covers_is_fetched_for_itself);
	tcase_add_test(tcase, an_answer_that_is_too_short_is_asked_for_again);
	tcase_add_test(tcase, all_who_share_a_fetch_fail_with_it);
	tcase_add_test(tcase, who_shares_the_fetch_of_another_user_is_not_refused_with_it);
	tcase_add_test(tcase, who_joined_a_fetch_later_has_time_left_when_it_times_out);
	tcase_add_test(tcase, a_killed_reader_is_answered_and_the_others_go_on);
	tcase_add_test(tcase, an_answer_under_the_lease_that_stands_needs_no_new_one);
	tcase_add_test(tcase, an_answer_at_another_change_than_the_lease_is_asked_for_again);
	tcase_add_test(tcase, an_answer_without_any_lease_is_asked_for_again);
	tcase_add_test(tcase, a_fill_under_a_recall_is_dropped_before_it_is_acknowledged);
	tcase_add_test(tcase, an_answer_that_a_recall_overtook_is_not_kept);
	tcase_add_test(tcase, who_joins_after_a_recall_does_not_get_an_answer_from_before_it);
	tcase_add_test(tcase, a_page_for_a_mapping_waits_for_the_end_of_a_recall);
	tcase_add_test(tcase, a_page_for_a_mapping_does_not_keep_a_recall_waiting);
	tcase_add_test(tcase, a_change_of_the_size_of_what_is_mapped_drops_no_pages);
	tcase_add_test(tcase, a_change_of_the_size_does_not_wait_for_a_page_that_is_stored_to);
	tcase_add_test(tcase,
		       a_change_of_the_size_ends_with_the_write_lease_that_was_granted_meanwhile);
	tcase_add_test(tcase, a_change_of_the_size_outlives_the_write_lease);
	tcase_add_test(tcase, the_end_of_a_session_does_not_wait_for_readers);
	tcase_add_test(tcase, the_end_of_a_session_drops_pages_whose_answer_is_on_its_way);
	tcase_add_test(tcase, the_end_of_a_session_does_not_wait_for_many_readers);
	return tcase;
}

UNIT_MAIN("mount_read", read_case)
