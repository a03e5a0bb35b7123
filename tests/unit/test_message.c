#include "unit.h"

#include "lease/message.h"
#include "lease/status.h"

static struct slice encode(const struct message *m, uint8_t *buffer, size_t size)
{
	struct writer w = writer_of(buffer, size);

	message_encode(&w, m);
	ck_assert(!w.failed);
	return (struct slice){ buffer, w.at };
}

START_TEST(a_lookup_survives_the_wire)
{
	static uint8_t buffer[MESSAGE_BYTES_MAX];
	struct message in = { .type = MESSAGE_lookup }, out;

	in.lookup.session = 7;
	in.lookup.credential = (struct credential){ 1000, 100, 2, { 4, 5 } };
	in.lookup.directory = (struct handle){ 3, { 1, 2, 3 } };
	in.lookup.name = slice_of("file");
	ck_assert_int_eq(message_decode(encode(&in, buffer, sizeof(buffer)), &out), 0);
	ck_assert_int_eq(out.type, MESSAGE_lookup);
	ck_assert_uint_eq(out.common.session, 7);
	ck_assert_uint_eq(out.common.credential.groups[1], 5);
	ck_assert(handle_equal(&out.lookup.directory, &in.lookup.directory));
	ck_assert(slice_equal(out.lookup.name, slice_of("file")));
}
END_TEST

START_TEST(every_cut_of_a_message_is_refused)
{
	static uint8_t buffer[MESSAGE_BYTES_MAX];
	struct message in = { .type = MESSAGE_rename }, out;
	struct slice whole;

	in.rename.name = slice_of("a");
	in.rename.new_name = slice_of("b");
	in.rename.directory = (struct handle){ 2, { 9, 9 } };
	whole = encode(&in, buffer, sizeof(buffer));
	for (size_t length = 0; length < whole.length; length++)
		ck_assert_int_eq(message_decode((struct slice){ buffer, length }, &out), -EBADMSG);
	buffer[whole.length] = 0;
	ck_assert_int_eq(message_decode((struct slice){ buffer, whole.length + 1 }, &out),
			 -EBADMSG);
}
END_TEST

START_TEST(an_unknown_type_is_told_from_a_malformed_one)
{
	uint8_t bytes[2] = { 0xff, 0xff };
	struct message out;

	ck_assert_int_eq(message_decode((struct slice){ bytes, 2 }, &out), -EOPNOTSUPP);
}
END_TEST

START_TEST(a_name_that_is_too_long_does_not_encode)
{
	static uint8_t buffer[MESSAGE_BYTES_MAX];
	static uint8_t name[NAME_BYTES_MAX + 1];
	struct message in = { .type = MESSAGE_lookup };
	struct writer w = writer_of(buffer, sizeof(buffer));

	in.lookup.name = (struct slice){ name, sizeof(name) };
	message_encode(&w, &in);
	ck_assert(w.failed);
}
END_TEST

START_TEST(items_are_read_back_until_the_end)
{
	uint8_t buffer[1024];
	struct writer w = writer_of(buffer, sizeof(buffer));
	struct item_node node = { .role = NODE_TARGET, .change = { 1, 2 } }, got;
	struct reader r;

	node.attributes.mode = 0100644;
	item_node_write(&w, &node);
	node.role = NODE_DIRECTORY;
	item_node_write(&w, &node);
	r = reader_of(buffer, w.at);
	ck_assert(item_node_read(&r, &got));
	ck_assert_uint_eq(got.attributes.mode, 0100644);
	ck_assert(item_node_read(&r, &got));
	ck_assert_uint_eq(got.role, NODE_DIRECTORY);
	ck_assert(!item_node_read(&r, &got));
	ck_assert(!r.failed);
	r = reader_of(buffer, w.at - 1);
	ck_assert(item_node_read(&r, &got));
	ck_assert(!item_node_read(&r, &got));
	ck_assert(r.failed);
}
END_TEST

START_TEST(a_message_prints_its_fields)
{
	struct message m = { .type = MESSAGE_recall };
	char text[200];

	m.recall.sequence = 12;
	m.recall.handle = (struct handle){ 2, { 0xab, 0xcd } };
	message_print(&m, text, sizeof(text));
	ck_assert_str_eq(text, "recall sequence=12 scope=0 handle=abcd names=[0]");
	message_print(&m, text, 8);
	ck_assert_str_eq(text, "recall ");
}
END_TEST

START_TEST(statuses_and_errnos_map_both_ways)
{
#define WALK(name, number, http, error, text)                                   \
	ck_assert_int_eq(status_errno(number), error);                          \
	ck_assert_int_eq(status_http(number), http);                            \
	ck_assert_str_eq(status_name(number), #name);                           \
	ck_assert_int_eq(status_errno(status_of_errno(error)), error);
	LEASE_STATUSES(WALK)
#undef WALK
	ck_assert_int_eq(status_errno(9999), EIO);
	ck_assert_int_eq(status_of_errno(ENOENT), STATUS_NOENT);
	ck_assert_int_eq(status_of_errno(99999), STATUS_IO);
}
END_TEST

static TCase *message_case(void)
{
	TCase *tcase = tcase_create("message");

	tcase_add_test(tcase, a_lookup_survives_the_wire);
	tcase_add_test(tcase, every_cut_of_a_message_is_refused);
	tcase_add_test(tcase, an_unknown_type_is_told_from_a_malformed_one);
	tcase_add_test(tcase, a_name_that_is_too_long_does_not_encode);
	tcase_add_test(tcase, items_are_read_back_until_the_end);
	tcase_add_test(tcase, a_message_prints_its_fields);
	tcase_add_test(tcase, statuses_and_errnos_map_both_ways);
	return tcase;
}

UNIT_MAIN("message", message_case)
