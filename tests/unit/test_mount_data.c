/* Opens, closes, fsync, and directories: what the origin is told, and what is answered without it. */
#include "mount_lab.h"

#define FILE_NUMBER 2

/* ---- opens ---- */

START_TEST(an_open_under_a_lease_asks_nobody_and_its_close_tells_nobody)
{
	uint64_t node;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	lab_close(node, lab_open(node, O_RDONLY));
	lab_round_trip();
	ck_assert_uint_eq(origin_received(MESSAGE_open), 0);
	ck_assert_uint_eq(origin_received(MESSAGE_close), 0);
}
END_TEST

START_TEST(a_small_file_is_cached_before_its_open_is_answered)
{
	uint64_t node, large, unique, read, fh;
	struct origin_request *fetch;
	struct fuse_open_out out;

	lab.options.open_fetch = 128 << 10;
	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	large = lab_find_file("large", 3, (128 << 10) + 1);
	lab_close(large, lab_open(large, O_RDONLY));
	lab_close(node, lab_open(node, O_RDWR));
	unique = kernel_open(node, O_RDONLY);
	fetch = origin_expect(MESSAGE_read);
	ck_assert_uint_eq(fetch->message.read.count, 5);
	ck_assert(!kernel_answered(unique));
	/* Who comes meanwhile does not wait. */
	lab_close(node, lab_open(node, O_RDONLY));
	origin_answer_read(fetch, FILE_NUMBER, 1, LEASE_READ, "hello", true);
	ck_assert_int_eq(kernel_error(unique), 0);
	memcpy(&out, kernel_wait(unique)->data, sizeof(out));
	fh = out.fh;
	read = kernel_read(node, fh, 0, 4096);
	ck_assert_int_eq(kernel_error(read), 0);
	ck_assert_uint_eq(kernel_wait(read)->length, 5);
	lab_close(node, fh);
	lab_close(node, lab_open(node, O_RDONLY));
	ck_assert_uint_eq(origin_received(MESSAGE_read), 1);
}
END_TEST

START_TEST(an_open_does_not_fail_with_its_fetch)
{
	struct origin_request *late;
	uint64_t node, unique;

	lab.options.open_fetch = 128 << 10;
	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	unique = kernel_open(node, O_RDONLY);
	origin_answer_status(origin_expect(MESSAGE_read), STATUS_IO);
	ck_assert_int_eq(kernel_error(unique), 0);
	/* Nor does it wait for long. */
	lab.m.open_fetch_max_ms = 10;
	unique = kernel_open(node, O_RDONLY);
	late = origin_expect(MESSAGE_read);
	ck_assert_int_eq(kernel_error(unique), 0);
	ck_assert_uint_eq(LAB_GET(inode_by_nodeid(&lab.m, node)->live->open_count + 0), 2);
	origin_answer_status(late, STATUS_IO);
}
END_TEST

START_TEST(a_larger_file_is_when_its_directory_is_swept)
{
	struct origin_request *read;
	uint64_t node[SWEEP_FILES], unique;

	lab_start();
	lab.options.open_fetch = 4096;
	for (unsigned i = 0; i < SWEEP_FILES; i++) {
		const char name[] = { (char)('a' + i), '\0' };

		node[i] = lab_find_file(name, FILE_NUMBER + i, SWEEP_BYTES_MAX);
	}
	for (unsigned i = 0; i + 1 < SWEEP_FILES; i++)
		ck_assert_int_eq(kernel_error(kernel_open(node[i], O_RDONLY)), 0);
	ck_assert_uint_eq(origin_received(MESSAGE_read), 0);
	unique = kernel_open(node[SWEEP_FILES - 1], O_RDONLY);
	read = origin_expect(MESSAGE_read);
	ck_assert_uint_eq(read->message.read.count, SWEEP_BYTES_MAX);
	origin_answer_status(read, STATUS_IO);
	ck_assert_int_eq(kernel_error(unique), 0);
}
END_TEST

START_TEST(readers_keep_pages_and_writers_go_around_them)
{
	struct fuse_open_out out;
	uint64_t node;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	memcpy(&out, kernel_wait(kernel_open(node, O_RDONLY))->data, sizeof(out));
	ck_assert_uint_eq(out.open_flags & (FOPEN_DIRECT_IO | FOPEN_KEEP_CACHE), FOPEN_KEEP_CACHE);
	memcpy(&out, kernel_wait(kernel_open(node, O_RDWR))->data, sizeof(out));
	ck_assert_uint_eq(out.open_flags & (FOPEN_DIRECT_IO | FOPEN_KEEP_CACHE), FOPEN_DIRECT_IO);
}
END_TEST

/* The guardian could not fence them (inode_count_max of the lab is 64). */
START_TEST(beyond_what_the_guardian_can_fence_nothing_has_pages)
{
	struct fuse_open_out out;
	uint64_t node;

	lab_start();
	for (unsigned i = 0; i < 64; i++)
		ck_assert_int_ge(guardian_add(lab.m.guardian, 1000 + i), 0);
	node = lab_find_file("f", FILE_NUMBER, 5);
	memcpy(&out, kernel_wait(kernel_open(node, O_RDONLY))->data, sizeof(out));
	ck_assert_uint_eq(out.open_flags & (FOPEN_DIRECT_IO | FOPEN_KEEP_CACHE), FOPEN_DIRECT_IO);
}
END_TEST

/* Such a descriptor can be mapped all the same. */
START_TEST(a_mapping_beyond_what_the_guardian_can_fence_gets_no_page)
{
	struct origin_request *read;
	uint64_t node, fh, unique;
	int slot = -1;

	lab_start();
	for (unsigned i = 0; i < 64; i++)
		slot = guardian_add(lab.m.guardian, 1000 + i);
	node = lab_find_file("f", FILE_NUMBER, 5);
	fh = lab_open(node, O_RDONLY);
	ck_assert_int_eq(kernel_error(kernel_read(node, fh, 0, 4096)), EIO);
	ck_assert_uint_eq(origin_received(MESSAGE_read), 0);
	guardian_remove(lab.m.guardian, slot);
	unique = kernel_read(node, fh, 0, 4096);
	read = origin_expect(MESSAGE_read);
	ck_assert_int_eq(guardian_add(lab.m.guardian, 2000), -ENOSPC);
	origin_answer_read(read, FILE_NUMBER, 1, LEASE_READ, "12345", true);
	ck_assert_int_eq(kernel_error(unique), 0);
}
END_TEST

static bool has_pages(uint64_t node)
{
	return inode_by_nodeid(&lab.m, node)->live->pages;
}

START_TEST(when_slots_run_out_those_of_closed_files_are_given_back)
{
	uint64_t f, g, fh;
	unsigned before;

	lab_start();
	for (unsigned i = 0; i < 60; i++)
		ck_assert_int_ge(guardian_add(lab.m.guardian, 1000 + i), 0);
	f = lab_find_file("f", FILE_NUMBER, 5);
	g = lab_find_file("g", FILE_NUMBER + 1, 5);
	fh = lab_open(f, O_RDONLY);
	before = kernel_notices();
	(void)lab_open(g, O_RDONLY); /* f is open */
	lab_round_trip();
	ck_assert_uint_eq(kernel_notices(), before);
	lab_close(f, fh);
	LAB_WAIT_MOUNT(inode_by_nodeid(&lab.m, f)->live->open_count == 0);
	(void)lab_open(lab_find_file("h", FILE_NUMBER + 2, 5), O_RDONLY);
	LAB_WAIT_MOUNT(!has_pages(f));
	ck_assert_uint_eq(kernel_notices(), before + 1);
	ck_assert_uint_eq(lab.notices[before].nodeid, f);
	ck_assert_int_eq(lab.notices[before].offset, 0);
	pthread_mutex_lock(&lab.m.lock);
	ck_assert(has_pages(g));
	pthread_mutex_unlock(&lab.m.lock);
	(void)lab_open(f, O_RDONLY);
	pthread_mutex_lock(&lab.m.lock);
	ck_assert(has_pages(f));
	pthread_mutex_unlock(&lab.m.lock);
}
END_TEST

/* --small: what the kernel hears first makes it tell no other one. */
START_TEST(opens_that_are_not_told_are_refused_as_unknown)
{
	const struct fuse_flush_in flush = { .fh = 0 };
	const struct fuse_lk_in lock = { .lk = { .end = 1, .type = F_RDLCK } };
	struct origin_request *read;
	uint64_t node, unique;

	lab_start();
	lab.m.unopened = true;
	node = lab_find_file("f", FILE_NUMBER, 5);
	ck_assert_int_eq(kernel_error(kernel_open(node, O_RDONLY)), ENOSYS);
	ck_assert_int_eq(kernel_error(kernel_send(FUSE_FLUSH, node, &flush, sizeof(flush), NULL, 0)),
			 ENOSYS);
	ck_assert_int_eq(kernel_error(kernel_send(FUSE_SETLK, node, &lock, sizeof(lock), NULL, 0)),
			 ENOLCK);
	ck_assert(!LAB_GET(has_pages(node)));
	unique = kernel_read(node, 0, 0, 4096);
	read = origin_expect(MESSAGE_read);
	ck_assert(LAB_GET(has_pages(node))); /* before there are any */
	origin_answer_read(read, FILE_NUMBER, 1, LEASE_READ, "12345", true);
	ck_assert_int_eq(kernel_error(unique), 0);
	ck_assert_int_eq(kernel_error(kernel_read(99999, 0, 0, 4096)), ESTALE);
}
END_TEST

START_TEST(page_fills_of_files_that_nobody_opened_wait_for_slots)
{
	uint64_t node[5], unique;

	lab_start();
	lab.m.unopened = true;
	for (unsigned i = 0; i < 60; i++)
		ck_assert_int_ge(guardian_add(lab.m.guardian, 1000 + i), 0);
	for (unsigned i = 0; i < 5; i++) {
		const char name[] = { (char)('a' + i), '\0' };

		node[i] = lab_find_file(name, FILE_NUMBER + i, 5);
	}
	kernel_let_notifications(true);
	for (unsigned i = 0; i < 4; i++) {
		unique = kernel_read(node[i], 0, 0, 4096);
		origin_answer_read(origin_expect(MESSAGE_read), FILE_NUMBER + i, 1, LEASE_READ,
				   "12345", true);
		ck_assert_int_eq(kernel_error(unique), 0);
		LAB_WAIT_MOUNT(inode_by_nodeid(&lab.m, node[i])->live->fills == 0);
	}
	/* What is given back is on its way, and stuck. */
	unique = kernel_read(node[4], 0, 0, 4096);
	lab_round_trip();
	ck_assert(LAB_GET(lab.m.slotless != NULL));
	ck_assert_uint_eq(origin_received(MESSAGE_read), 4);
	kernel_let_notifications(false);
	origin_answer_read(origin_expect(MESSAGE_read), FILE_NUMBER + 4, 1, LEASE_READ, "12345", true);
	ck_assert_int_eq(kernel_error(unique), 0);
	ck_assert(LAB_GET(has_pages(node[4])));
	ck_assert(!LAB_GET(has_pages(node[0])));
}
END_TEST

START_TEST(an_open_without_a_lease_is_registered_and_its_last_close_told)
{
	struct fuse_open_out out;
	struct handle handle = lab_handle(FILE_NUMBER);
	struct origin_request *close;
	uint64_t node, unique, second;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	origin_wait_acknowledged(origin_recall(FILE_NUMBER, NULL));
	unique = kernel_open(node, O_RDONLY);
	origin_answer_status(origin_expect(MESSAGE_open), STATUS_OK);
	ck_assert_int_eq(kernel_error(unique), 0);
	memcpy(&out, kernel_wait(unique)->data, sizeof(out));
	second = lab_open(node, O_RDONLY); /* it is registered */
	lab_close(node, out.fh);
	lab_round_trip();
	ck_assert_uint_eq(origin_received(MESSAGE_close), 0);
	lab_close(node, second);
	close = origin_expect(MESSAGE_close);
	ck_assert(handle_equal(&close->message.close.handle, &handle));
	ck_assert_uint_eq(close->message.common.sequence, 1);
	/* Until it is answered, opens wait: it must not undo what they register. */
	unique = kernel_open(node, O_RDONLY);
	lab_round_trip();
	ck_assert_uint_eq(origin_received(MESSAGE_open), 1);
	origin_answer_status(close, STATUS_OK);
	origin_answer_status(origin_expect(MESSAGE_open), STATUS_OK);
	ck_assert_int_eq(kernel_error(unique), 0);
}
END_TEST

START_TEST(a_refused_open_is_not_counted)
{
	uint64_t node, unique;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	origin_wait_acknowledged(origin_recall(FILE_NUMBER, NULL));
	unique = kernel_open(node, O_RDONLY);
	origin_answer_status(origin_expect(MESSAGE_open), STATUS_ACCES);
	ck_assert_int_eq(kernel_error(unique), EACCES);
	ck_assert_uint_eq(LAB_GET(inode_by_nodeid(&lab.m, node)->live->open_count + 0), 0);
}
END_TEST

/* Whoever opened it died: nobody will release it. */
START_TEST(an_open_that_the_kernel_refuses_is_closed)
{
	uint64_t node;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	lab.refuses = true;
	(void)kernel_open(node, O_RDONLY);
	ck_assert_uint_eq(LAB_GET(inode_by_nodeid(&lab.m, node)->live->open_count + 0), 0);
	ck_assert_ptr_null(lab.m.open_files);
}
END_TEST

/* ---- fsync ---- */

static uint64_t write_and_fsync(uint64_t incarnation, uint64_t node, uint64_t fh)
{
	const struct origin_answer written = {
		.count = 1,
		.node_count = 1,
		.nodes = { origin_node(NODE_TARGET, FILE_NUMBER, S_IFREG | 0644, 2, LEASE_READ) },
	};
	const struct origin_answer synced = { .incarnation = incarnation };
	uint64_t unique = kernel_write(node, fh, 0, "x");

	origin_answer(origin_expect(MESSAGE_write), &written);
	ck_assert_int_eq(kernel_error(unique), 0);
	unique = kernel_fsync(node, fh);
	origin_answer(origin_expect(MESSAGE_fsync), &synced);
	return unique;
}

START_TEST(fsync_fails_when_the_store_crashed_after_the_write)
{
	uint64_t node, fh, unique;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	fh = lab_open(node, O_RDWR);
	ck_assert_int_eq(kernel_error(write_and_fsync(INCARNATION, node, fh)), 0);
	ck_assert_int_eq(kernel_error(write_and_fsync(INCARNATION + 1, node, fh)), EIO);
	/* It is told once. */
	unique = kernel_fsync(node, fh);
	origin_answer_status(origin_expect(MESSAGE_fsync), STATUS_OK);
	ck_assert_int_eq(kernel_error(unique), 0);
}
END_TEST

static uint64_t flush(uint64_t node, uint64_t fh)
{
	const struct fuse_flush_in in = { .fh = fh };

	return kernel_send(FUSE_FLUSH, node, &in, sizeof(in), NULL, 0);
}

START_TEST(a_sync_that_failed_at_another_host_is_told_to_each_descriptor_once)
{
	const struct origin_answer failed = { .incarnation = INCARNATION + 1,
					      .offset = INCARNATION + 1 };
	uint64_t node, fh[2], unique;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	fh[0] = lab_open(node, O_RDWR);
	fh[1] = lab_open(node, O_RDONLY); /* nothing was written through either */
	unique = kernel_fsync(node, fh[0]);
	origin_answer(origin_expect(MESSAGE_fsync), &failed);
	ck_assert_int_eq(kernel_error(unique), EIO);
	for (int i = 0; i < 2; i++) {
		unique = kernel_fsync(node, fh[0]);
		origin_answer(origin_expect(MESSAGE_fsync), &failed);
		ck_assert_int_eq(kernel_error(unique), 0);
	}
	unique = kernel_fsync(node, fh[1]);
	origin_answer(origin_expect(MESSAGE_fsync), &failed);
	ck_assert_int_eq(kernel_error(unique), EIO);
}
END_TEST

START_TEST(a_descriptor_opened_after_a_failed_sync_is_told_nothing)
{
	const struct origin_answer other = { .incarnation = INCARNATION + 1 };
	const struct origin_answer failed = { .incarnation = INCARNATION + 1,
					      .offset = INCARNATION + 1 };
	uint64_t node, fh, unique;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	fh = lab_open(node, O_RDWR);
	unique = kernel_fsync(node, fh);
	origin_answer(origin_expect(MESSAGE_fsync), &other);
	ck_assert_int_eq(kernel_error(unique), 0);
	fh = lab_open(node, O_RDWR);
	unique = kernel_fsync(node, fh);
	origin_answer(origin_expect(MESSAGE_fsync), &failed);
	ck_assert_int_eq(kernel_error(unique), 0);
}
END_TEST

START_TEST(a_loss_that_any_answer_tells_of_is_told_at_the_close)
{
	uint64_t node, fh, other, unique;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	other = lab_find_file("g", FILE_NUMBER + 1, 5);
	fh = lab_open(node, O_RDWR);
	ck_assert_int_eq(kernel_error(write_and_fsync(INCARNATION, node, fh)), 0);
	unique = kernel_write(node, fh, 0, "x");
	origin_answer(origin_expect(MESSAGE_write), &(struct origin_answer){
		.count = 1, .node_count = 1,
		.nodes = { origin_node(NODE_TARGET, FILE_NUMBER, S_IFREG | 0644, 3, LEASE_READ) } });
	ck_assert_int_eq(kernel_error(unique), 0);
	unique = kernel_fsync(other, lab_open(other, O_RDONLY));
	origin_answer(origin_expect(MESSAGE_fsync),
		      &(struct origin_answer){ .incarnation = INCARNATION + 1 });
	ck_assert_int_eq(kernel_error(unique), 0);
	ck_assert_int_eq(kernel_error(flush(node, fh)), EIO);
	ck_assert_int_eq(kernel_error(flush(node, fh)), 0);
}
END_TEST

/* ---- directories ---- */

static uint64_t open_directory(void)
{
	struct fuse_open_in in = { .flags = O_DIRECTORY };
	uint64_t unique = kernel_send(FUSE_OPENDIR, FUSE_ROOT_ID, &in, sizeof(in), NULL, 0);
	struct fuse_open_out out;

	ck_assert_int_eq(kernel_error(unique), 0);
	memcpy(&out, kernel_wait(unique)->data, sizeof(out));
	return out.fh;
}

static uint64_t list(uint32_t opcode, uint64_t fh)
{
	const struct fuse_read_in in = { .fh = fh, .size = 4096 };

	return kernel_send(opcode, FUSE_ROOT_ID, &in, sizeof(in), NULL, 0);
}

static void close_directory(uint64_t fh)
{
	const struct fuse_release_in in = { .fh = fh };

	ck_assert_int_eq(kernel_error(kernel_send(FUSE_RELEASEDIR, FUSE_ROOT_ID, &in, sizeof(in),
						  NULL, 0)), 0);
}

/* Answers a readdir with the whole directory: "a" and "b", with leases. */
static void answer_listing(struct origin_request *readdir)
{
	struct origin_answer answer = {
		.eof = true,
		.count = 2,
		.offset = 2,
		.node_count = 1,
		.nodes = { origin_node(NODE_DIRECTORY, ROOT_NUMBER, S_IFDIR | 0755, 1, LEASE_READ) },
	};
	uint8_t bytes[2048];
	struct writer w = writer_of(bytes, sizeof(bytes));

	for (uint8_t i = 0; i < 2; i++) {
		struct item_node node = origin_node(NODE_TARGET, (uint8_t)(10 + i), S_IFREG | 0644, 1,
						    LEASE_READ);
		uint8_t encoded[512];
		struct writer n = writer_of(encoded, sizeof(encoded));
		struct item_dirent entry = { .cookie = i + 1u, .inode = 10u + i, .type = S_IFREG,
					     .name = slice_of(i == 0 ? "a" : "b") };

		item_node_write(&n, &node);
		entry.node = (struct slice){ encoded, n.at };
		item_dirent_write(&w, &entry);
	}
	answer.data = bytes;
	answer.length = w.at;
	origin_answer(readdir, &answer);
}

START_TEST(a_listing_under_a_lease_serves_everybody_until_a_name_is_recalled)
{
	uint64_t first, second, unique;

	lab_start();
	first = open_directory();
	unique = list(FUSE_READDIRPLUS, first);
	answer_listing(origin_expect(MESSAGE_readdir));
	ck_assert_int_eq(kernel_error(unique), 0);
	ck_assert_uint_gt(kernel_wait(unique)->length, 0);
	second = open_directory();
	ck_assert_int_eq(kernel_error(list(FUSE_READDIRPLUS, second)), 0);
	ck_assert_uint_eq(origin_received(MESSAGE_readdir), 1);
	/* Names are known by it, those that are not there, too. */
	ck_assert_int_eq(kernel_error(kernel_lookup(FUSE_ROOT_ID, "a")), 0);
	(void)kernel_wait(kernel_lookup(FUSE_ROOT_ID, "absent"));
	ck_assert_uint_eq(origin_received(MESSAGE_lookup), 0);
	origin_wait_acknowledged(origin_recall(ROOT_NUMBER, "c"));
	unique = list(FUSE_READDIRPLUS, second);
	answer_listing(origin_expect(MESSAGE_readdir));
	ck_assert_int_eq(kernel_error(unique), 0);
	close_directory(first);
	close_directory(second);
}
END_TEST

/* Each entry of READDIRPLUS with a node counts as a lookup; READDIR's do not. */
START_TEST(entries_with_attributes_count_as_lookups)
{
	struct handle handle = lab_handle(10);
	uint64_t fh, unique;

	lab_start();
	fh = open_directory();
	unique = list(FUSE_READDIR, fh);
	answer_listing(origin_expect(MESSAGE_readdir));
	ck_assert_int_eq(kernel_error(unique), 0);
	ck_assert_uint_eq(LAB_GET((uint64_t)inode_find(&lab.m, &handle)->lookup_count), 0);
	ck_assert_int_eq(kernel_error(list(FUSE_READDIRPLUS, fh)), 0);
	ck_assert_uint_eq(LAB_GET((uint64_t)inode_find(&lab.m, &handle)->lookup_count), 1);
	close_directory(fh);
}
END_TEST

/* The kernel may take it in at any time later, and does not know from when its names are. */
START_TEST(entries_of_a_listing_have_attributes_that_last_and_names_that_do_not)
{
	uint64_t fh, unique;
	const struct kernel_reply *reply;
	unsigned count = 0;

	lab_start();
	fh = open_directory();
	unique = list(FUSE_READDIRPLUS, fh);
	answer_listing(origin_expect(MESSAGE_readdir));
	ck_assert_int_eq(kernel_error(unique), 0);
	reply = kernel_wait(unique);
	for (size_t at = 0; at < reply->length; count++) {
		struct fuse_direntplus entry;

		memcpy(&entry, reply->data + at, sizeof(entry));
		ck_assert_uint_ne(entry.entry_out.nodeid, 0);
		ck_assert_uint_eq(entry.entry_out.entry_valid, 0);
		ck_assert_uint_eq(entry.entry_out.entry_valid_nsec, 0);
		ck_assert_uint_gt(entry.entry_out.attr_valid, 0);
		at += FUSE_DIRENT_ALIGN(sizeof(entry) + entry.dirent.namelen);
	}
	ck_assert_uint_eq(count, 2);
	/* So a recall of names has none to take back; one of what they lead to has. */
	origin_wait_acknowledged(origin_recall(ROOT_NUMBER, "a"));
	ck_assert_uint_eq(kernel_notices(), 0);
	origin_wait_acknowledged(origin_recall(10, NULL));
	ck_assert_uint_eq(kernel_notices(), 1);
	close_directory(fh);
}
END_TEST

START_TEST(a_malformed_listing_is_an_error)
{
	const struct origin_answer broken = { .eof = true, .count = 1, .data = "\1\2\3", .length = 3 };
	uint64_t fh, unique;

	lab_start();
	fh = open_directory();
	unique = list(FUSE_READDIR, fh);
	origin_answer(origin_expect(MESSAGE_readdir), &broken);
	ck_assert_int_eq(kernel_error(unique), EIO);
	close_directory(fh);
}
END_TEST

static TCase *data_case(void)
{
	TCase *tcase = lab_case("mount_data");

	tcase_add_test(tcase, an_open_under_a_lease_asks_nobody_and_its_close_tells_nobody);
	tcase_add_test(tcase, a_small_file_is_cached_before_its_open_is_answered);
	tcase_add_test(tcase, an_open_does_not_fail_with_its_fetch);
	tcase_add_test(tcase, a_larger_file_is_when_its_directory_is_swept);
	tcase_add_test(tcase, readers_keep_pages_and_writers_go_around_them);
	tcase_add_test(tcase, beyond_what_the_guardian_can_fence_nothing_has_pages);
	tcase_add_test(tcase, a_mapping_beyond_what_the_guardian_can_fence_gets_no_page);
	tcase_add_test(tcase, when_slots_run_out_those_of_closed_files_are_given_back);
	tcase_add_test(tcase, opens_that_are_not_told_are_refused_as_unknown);
	tcase_add_test(tcase, page_fills_of_files_that_nobody_opened_wait_for_slots);
	tcase_add_test(tcase, an_open_without_a_lease_is_registered_and_its_last_close_told);
	tcase_add_test(tcase, a_refused_open_is_not_counted);
	tcase_add_test(tcase, an_open_that_the_kernel_refuses_is_closed);
	tcase_add_test(tcase, fsync_fails_when_the_store_crashed_after_the_write);
	tcase_add_test(tcase, a_sync_that_failed_at_another_host_is_told_to_each_descriptor_once);
	tcase_add_test(tcase, a_descriptor_opened_after_a_failed_sync_is_told_nothing);
	tcase_add_test(tcase, a_loss_that_any_answer_tells_of_is_told_at_the_close);
	tcase_add_test(tcase, a_listing_under_a_lease_serves_everybody_until_a_name_is_recalled);
	tcase_add_test(tcase, entries_with_attributes_count_as_lookups);
	tcase_add_test(tcase, entries_of_a_listing_have_attributes_that_last_and_names_that_do_not);
	tcase_add_test(tcase, a_malformed_listing_is_an_error);
	return tcase;
}

UNIT_MAIN("mount_data", data_case)
