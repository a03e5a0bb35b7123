/* An origin as its administrator sees it: plain HTTP, restarts, state directory. */
#include <curl/curl.h>

#include "tests/unit/origin_lab.h"

/* ---- plain HTTP ---- */

struct page {
	char text[8192];
	size_t length;
	long status;
};

static size_t collect(char *data, size_t size, size_t count, void *context)
{
	struct page *page = (struct page *)context;
	size_t room = sizeof(page->text) - 1 - page->length;
	size_t length = size * count < room ? size * count : room;

	memcpy(page->text + page->length, data, length);
	page->length += length;
	page->text[page->length] = 0;
	return size * count;
}

/* As curl would; `id` 0: without a certificate. */
static struct page get(uint8_t id, const char *address, const char *range, const char *post)
{
	char url[512], certificate[256], key[256], authority[256];
	struct page page = { .length = 0 };
	CURL *curl = curl_easy_init();

	snprintf(url, sizeof(url), "%s%s", running.url, address);
	snprintf(certificate, sizeof(certificate), "%s/host%d/host.pem", path, id);
	snprintf(key, sizeof(key), "%s/host%d/host.key", path, id);
	snprintf(authority, sizeof(authority), "%s/host1/ca.pem", path);
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
	curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
	curl_easy_setopt(curl, CURLOPT_CAINFO, authority);
	if (id) {
		curl_easy_setopt(curl, CURLOPT_SSLCERT, certificate);
		curl_easy_setopt(curl, CURLOPT_SSLKEY, key);
	}
	if (range)
		curl_easy_setopt(curl, CURLOPT_RANGE, range);
	if (post)
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, post);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, collect);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, &page);
	ck_assert_int_eq(curl_easy_perform(curl), CURLE_OK);
	curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &page.status);
	curl_easy_cleanup(curl);
	return page;
}

START_TEST(files_can_be_read_with_a_plain_client)
{
	struct host a;
	struct handle file;
	struct item_node node;
	struct message m;
	struct page page;

	host_start(&a, 1);
	file = make_file(&a, "a file");
	m = write_of(&a, file, false);
	ck_assert_uint_eq(ask_node(&a, &m, "0123456789", &node), STATUS_OK);
	page = get(1, "/files/data/a%20file", NULL, NULL);
	ck_assert_int_eq(page.status, 200);
	ck_assert_str_eq(page.text, "0123456789");
	page = get(1, "/files/data/a%20file", "2-4", NULL);
	ck_assert_int_eq(page.status, 206);
	ck_assert_str_eq(page.text, "234");
	ck_assert_str_eq(get(1, "/files/data/a%20file", "-3", NULL).text, "789");
	ck_assert_int_eq(get(1, "/files/data/a%20file", "10-", NULL).status, 416);
	ck_assert_str_eq(get(1, "/files/data/", NULL, NULL).text, "a file\n");
	host_stop(&a);
}
END_TEST

START_TEST(what_is_not_there_or_not_allowed_is_said_in_one_line)
{
	struct host a;
	struct page page;

	host_start(&a, 1);
	ck_assert_int_eq(symlinkat("/etc", path_fd, "tree/out"), 0);
	ck_assert_int_eq(get(1, "/files/data/absent", NULL, NULL).status, 404);
	ck_assert_int_eq(get(1, "/files/other/x", NULL, NULL).status, 404);
	ck_assert_int_eq(get(1, "/files/data/../state/sessions", NULL, NULL).status, 404);
	ck_assert_int_eq(get(1, "/files/data/%2e%2e/state/sessions", NULL, NULL).status, 404);
	ck_assert_int_eq(get(1, "/files/data/out/passwd", NULL, NULL).status, 404);
	ck_assert_int_eq(get(1, "/files/data/.leasehold", NULL, NULL).status, 404);
	ck_assert_int_eq(get(1, "/files/data/%zz", NULL, NULL).status, 400);
	ck_assert_int_eq(get(1, "/nothing", NULL, NULL).status, 404);
	ck_assert_int_eq(get(1, "/v1/rpc", NULL, NULL).status, 405);
	ck_assert_int_eq(get(1, "/status", NULL, "x").status, 405);
	ck_assert_int_eq(get(0, "/status", NULL, NULL).status, 403);
	ck_assert_int_eq(get(0, "/files/data/", NULL, NULL).status, 403);
	ck_assert_int_eq(get(0, "/v1/join", NULL, "{}").status, 400);
	page = get(0, "/v1/join", NULL, "{\"token\":\"no\",\"request\":\"no\"}");
	ck_assert_int_ge(page.status, 400);
	ck_assert_ptr_eq(strchr(page.text, '\n'), page.text + page.length - 1);
	host_stop(&a);
}
END_TEST

START_TEST(the_status_page_counts)
{
	struct host a;
	struct page page;

	host_start(&a, 1);
	(void)make_file(&a, "file");
	page = get(1, "/status", NULL, NULL);
	ck_assert_int_eq(page.status, 200);
	ck_assert_ptr_nonnull(strstr(page.text, "\"name\": \"data\""));
	ck_assert_ptr_nonnull(strstr(page.text, "\"host\": \"host1\""));
	ck_assert_ptr_nonnull(strstr(page.text, "\"operations_run\": 1"));
	ck_assert_ptr_nonnull(strstr(page.text, "\"bytes_in\""));
	host_stop(&a);
}
END_TEST

/* ---- restart ---- */

static bool reclaim(struct host *h, struct handle handle, struct change change, bool last)
{
	uint8_t bytes[256];
	struct writer w = writer_of(bytes, sizeof(bytes));
	struct item_claim claim = { LEASE_READ, 0, handle, change };
	struct message m = { .type = MESSAGE_reclaim };
	struct call call;
	bool confirmed;

	item_claim_write(&w, &claim);
	m.reclaim = (struct message_reclaim){ h->session, last, { bytes, w.at } };
	call_start(h, &call, &m, NULL);
	call_wait(&call);
	ck_assert_uint_eq(call.message.reclaimed.status, STATUS_OK);
	ck_assert_uint_eq(call.message.reclaimed.confirmed.length, 1);
	confirmed = call.message.reclaimed.confirmed.data[0];
	call_finish(&call);
	return confirmed;
}

static void restart_and_reclaim(int signal)
{
	struct host a;
	struct handle file;
	struct item_node node;
	struct message m;
	struct change change;
	uint64_t incarnation;

	host_start(&a, 1);
	file = make_file(&a, "file");
	m = write_of(&a, file, false);
	ck_assert_uint_eq(ask_node(&a, &m, "x", &node), STATUS_OK);
	change = node.change;
	incarnation = a.incarnation;
	a.previous = a.session;
	client_destroy(a.client);
	(void)origin_end(signal);
	origin_start();
	m.common.session = a.previous;
	host_connect(&a, 1);
	a.previous = m.common.session;
	/* PROTOCOL.md 3.5: what was done is answered as it was, what was not will never be. */
	ck_assert_uint_eq(ask_node(&a, &m, "x", &node), STATUS_OK);
	ck_assert(change_equal(node.change, change));
	m.common.sequence++;
	ck_assert_uint_eq(ask_node(&a, &m, "x", &node), STATUS_NOSESSION);
	ck_assert_uint_eq(open_session(&a), STATUS_OK);
	ck_assert_uint_eq(a.incarnation, incarnation);
	ck_assert(a.reclaim);
	attach(&a);
	/* In grace, reads are answered without a lease. */
	node = getattr(&a, file);
	ck_assert(change_equal(node.change, change));
	ck_assert_uint_eq(node.lease, LEASE_NONE);
	ck_assert(reclaim(&a, file, change, false));
	change.counter++;
	ck_assert(!reclaim(&a, file, change, true));
	/* Everyone has reclaimed: grace is over. */
	m = write_of(&a, file, true);
	ck_assert_uint_eq(ask_node(&a, &m, "y", &node), STATUS_OK);
	ck_assert_uint_eq(node.attributes.size, 2);
	host_stop(&a);
}

START_TEST(what_a_host_held_is_reclaimed_after_a_restart)
{
	restart_and_reclaim(SIGTERM);
}
END_TEST

START_TEST(what_a_host_held_is_reclaimed_after_the_origin_was_killed)
{
	restart_and_reclaim(SIGKILL);
}
END_TEST

START_TEST(stopping_answers_a_write_that_waits_for_a_recall)
{
	struct host a, b;
	struct handle file;
	struct call call;
	struct message m;
	time_t before = time(NULL);

	host_start(&a, 1);
	host_start(&b, 2);
	file = make_file(&a, "file");
	ck_assert_uint_eq(getattr(&b, file).lease, LEASE_READ);
	m = write_of(&a, file, false);
	call_start(&a, &call, &m, "new");
	(void)wait_recall(&b, 0, &file);
	origin_stop();
	call_wait(&call);
	ck_assert_uint_eq(call.message.reply.status, STATUS_DRAINING);
	call_finish(&call);
	/* Bounded by our own limit on draining, and a lot of room for a slow machine. */
	ck_assert_int_lt(time(NULL) - before, 40);
	host_stop(&a);
	host_stop(&b);
}
END_TEST

START_TEST(a_session_is_waited_for_across_two_restarts)
{
	struct host a;
	struct handle file;
	struct message m;
	struct item_node node;

	host_start(&a, 1);
	file = make_file(&a, "file");
	ck_assert_uint_eq(getattr(&a, file).lease, LEASE_READ);
	host_stop(&a);
	(void)origin_end(SIGKILL);
	origin_start();
	/* Another host comes, and the record is written anew. */
	host_start(&a, 2);
	host_stop(&a);
	(void)origin_end(SIGKILL);
	origin_start();
	host_start(&a, 2);
	a.sequence = 0;
	m = write_of(&a, file, false);
	m.common.deadline_ms = 300;
	ck_assert_uint_eq(ask_node(&a, &m, "x", &node), STATUS_DEADLINE);
	host_stop(&a);
}
END_TEST

START_TEST(a_second_origin_on_the_same_state_is_refused)
{
	struct origin_options options = { .listen = "127.0.0.1:0", .name = "", .term = TERM_MS,
					  .sessions = 4, .leases = 10, .workers = 1,
					  .export_count = 1 };
	char state[SCRATCH_PATH_BYTES + 8], tree[SCRATCH_PATH_BYTES + 8];

	snprintf(state, sizeof(state), "%s/state", path);
	snprintf(tree, sizeof(tree), "%s/tree", path);
	options.state = state;
	options.exports[0] = (struct origin_export){ .name = "data", .directory = tree };
	ck_assert_int_eq(origin_run(&options), -EBUSY);
	snprintf(state, sizeof(state), "%s/state2", path);
	options.exports[0].directory = "/nonexistent";
	ck_assert_int_eq(origin_run(&options), -ENOENT);
}
END_TEST

static TCase *make_case(void)
{
	TCase *tc = tcase_create("origin");

	if (geteuid() != 0) {
		printf("1..0 # SKIP needs root: an origin opens files by handle\n");
		exit(EXIT_SUCCESS);
	}
	tcase_set_timeout(tc, 240);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, what_a_host_held_is_reclaimed_after_a_restart);
	tcase_add_test(tc, what_a_host_held_is_reclaimed_after_the_origin_was_killed);
	tcase_add_test(tc, files_can_be_read_with_a_plain_client);
	tcase_add_test(tc, what_is_not_there_or_not_allowed_is_said_in_one_line);
	tcase_add_test(tc, the_status_page_counts);
	tcase_add_test(tc, stopping_answers_a_write_that_waits_for_a_recall);
	tcase_add_test(tc, a_session_is_waited_for_across_two_restarts);
	tcase_add_test(tc, a_second_origin_on_the_same_state_is_refused);
	return tc;
}

UNIT_MAIN("origin", make_case)
