/*
 * A whole origin in a process of its own, over TLS on loopback, and hosts that speak the protocol
 * with the client library and nothing else.
 */
#include <curl/curl.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "fs/origin/origin.h"
#include "lease/status.h"
#include "transport/client.h"
#include "transport/tls.h"

#include "tests/unit/scratch.h"
#include "tests/unit/unit.h"

#define TERM_MS 3000
#define WAIT_S 20
#define RECALLS_MAX 16

static char path[SCRATCH_PATH_BYTES];
static int path_fd;

/* ---- the origin ---- */

static struct {
	pid_t pid;
	char url[128];
	char token[TLS_TOKEN_BYTES];
} running;

static void origin_start_with(uint64_t term_ms, const char *tree)
{
	static char state[SCRATCH_PATH_BYTES + 8];
	struct origin_options options = {
		.listen = "127.0.0.1:0",
		.state = state,
		.name = "",
		.term = term_ms,
		.sessions = 16,
		.leases = 1000,
		.workers = 3,
		.exports = { { .name = "data", .directory = tree } },
		.export_count = 1,
	};
	char line[512] = "", url[128], token[TLS_TOKEN_BYTES];
	int out[2];
	FILE *file;

	snprintf(state, sizeof(state), "%s/state", path);
	ck_assert_int_eq(pipe(out), 0);
	running.pid = fork();
	ck_assert_int_ge(running.pid, 0);
	if (running.pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(out[1], STDOUT_FILENO);
		close(out[0]);
		close(out[1]);
		exit(origin_run(&options) < 0 ? 3 : 0);
	}
	close(out[1]);
	file = fdopen(out[0], "r");
	ck_assert_ptr_nonnull(fgets(line, sizeof(line), file));
	fclose(file);
	ck_assert_int_eq(sscanf(line, "leasehold mount %127s MOUNTPOINT --cache DIR "
				      "--cache-size 10G --join %79s", url, token), 2);
	*strrchr(url, '/') = 0; /* the export */
	snprintf(running.url, sizeof(running.url), "%s", url);
	snprintf(running.token, sizeof(running.token), "%s", token);
}

static void origin_start(void)
{
	static char tree[SCRATCH_PATH_BYTES + 8];

	snprintf(tree, sizeof(tree), "%s/tree", path);
	origin_start_with(TERM_MS, tree);
}

static int origin_end(int signal)
{
	int status;

	kill(running.pid, signal);
	ck_assert_int_eq(waitpid(running.pid, &status, 0), running.pid);
	running.pid = 0;
	return status;
}

static void origin_stop(void)
{
	int status = origin_end(SIGTERM);

	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "origin: %d", status);
}

/* ---- a host ---- */

struct host {
	struct client *client;
	struct client_stream *stream;
	uint64_t session, previous;
	uint64_t sequence;
	uint8_t id;
	struct handle root;
	uint64_t incarnation;
	bool reclaim;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint32_t recall_count;
	struct {
		uint64_t sequence;
		struct handle handle;
		uint8_t scope;
	} recalls[RECALLS_MAX];
	bool stream_ended;
};

/* A call under way, and its answer with a copy of all that it borrows. */
struct call {
	struct host *host;
	bool done;
	int error;
	uint8_t *bytes;
	struct message message;
	uint8_t *bulk;
	size_t bulk_length;
};

static void copy_answer(struct call *call, const struct client_answer *answer)
{
	call->error = answer->error;
	if (!answer->error && answer->message.length) {
		call->bytes = (uint8_t *)malloc(answer->message.length);
		memcpy(call->bytes, answer->message.data, answer->message.length);
		if (message_decode((struct slice){ call->bytes, answer->message.length },
				   &call->message))
			call->error = -EBADMSG;
		call->bulk_length = answer->bulk.length;
		call->bulk = (uint8_t *)malloc(answer->bulk.length + 1);
		if (answer->bulk.length)
			memcpy(call->bulk, answer->bulk.data, answer->bulk.length);
	}
}

static void call_done(void *context, const struct client_answer *answer)
{
	struct call *call = (struct call *)context;

	pthread_mutex_lock(&call->host->lock);
	copy_answer(call, answer);
	call->done = true;
	pthread_cond_broadcast(&call->host->changed);
	pthread_mutex_unlock(&call->host->lock);
}

static void call_start(struct host *h, struct call *call, const struct message *m, const char *bulk)
{
	memset(call, 0, sizeof(*call));
	call->host = h;
	ck_assert_int_eq(client_call(h->client, message_is_request(m->type) ? CLIENT_DATA :
									      CLIENT_CONTROL,
				     "/v1/rpc", m, slice_of(bulk ? bulk : ""),
				     duration_ms(WAIT_S * 1000), call_done, call, NULL), 0);
}

static struct timespec deadline_in(unsigned ms)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_sec += ms / 1000;
	t.tv_nsec += (long)(ms % 1000) * 1000000;
	if (t.tv_nsec >= 1000000000) {
		t.tv_nsec -= 1000000000;
		t.tv_sec++;
	}
	return t;
}

/* Waits until `*flag`, or at most `ms`; what it then is. */
static bool wait_flag(struct host *h, const bool *flag, unsigned ms)
{
	struct timespec until = deadline_in(ms);
	bool set;

	pthread_mutex_lock(&h->lock);
	while (!*flag && pthread_cond_timedwait(&h->changed, &h->lock, &until) == 0)
		;
	set = *flag;
	pthread_mutex_unlock(&h->lock);
	return set;
}

static void call_wait(struct call *call)
{
	ck_assert(wait_flag(call->host, &call->done, WAIT_S * 1000));
	ck_assert_int_eq(call->error, 0);
}

static void call_finish(struct call *call)
{
	free(call->bytes);
	free(call->bulk);
}

static void received(void *context, struct slice bytes)
{
	struct host *h = (struct host *)context;
	struct message m;

	if (message_decode(bytes, &m) || m.type != MESSAGE_recall)
		return;
	pthread_mutex_lock(&h->lock);
	if (h->recall_count < RECALLS_MAX) {
		h->recalls[h->recall_count].sequence = m.recall.sequence;
		h->recalls[h->recall_count].handle = m.recall.handle;
		h->recalls[h->recall_count++].scope = m.recall.scope;
	}
	pthread_cond_broadcast(&h->changed);
	pthread_mutex_unlock(&h->lock);
}

static void ended(void *context, int error, int http_status, const char *text)
{
	struct host *h = (struct host *)context;

	pthread_mutex_lock(&h->lock);
	h->stream_ended = true;
	pthread_cond_broadcast(&h->changed);
	pthread_mutex_unlock(&h->lock);
}

static uint16_t open_session(struct host *h)
{
	uint8_t host[16] = { h->id };
	struct message m = {
		.type = MESSAGE_session_open,
		.session_open = {
			.version_min = 1, .version_max = 1, .host = { host, 16 },
			.instance = 100u + h->id, .previous_session = h->previous,
			.export = slice_of("data"), .slot_count = 4,
		},
	};
	struct item_node root;
	struct reader r;
	struct call call;
	uint16_t status;

	call_start(h, &call, &m, NULL);
	call_wait(&call);
	ck_assert_int_eq(call.message.type, MESSAGE_session_opened);
	status = call.message.session_opened.status;
	if (status == STATUS_OK) {
		r = reader_of(call.message.session_opened.root.data,
			      call.message.session_opened.root.length);
		ck_assert(item_node_read(&r, &root));
		h->root = root.handle;
		h->session = call.message.session_opened.session;
		h->incarnation = call.message.session_opened.incarnation;
		h->reclaim = call.message.session_opened.reclaim;
	}
	call_finish(&call);
	return status;
}

static void attach(struct host *h)
{
	struct message m = { .type = MESSAGE_recall_stream,
			     .recall_stream = { .session = h->session } };

	ck_assert_int_eq(client_stream(h->client, "/v1/recalls", &m, received, ended, h,
				       &h->stream), 0);
}

static void host_connect(struct host *h, uint8_t id)
{
	char directory[SCRATCH_PATH_BYTES + 16], name[16], text[256];
	struct client_config config = {
		.url = running.url,
		.tls_directory = directory,
		.data_connections = 1,
		.connect_timeout = duration_ms(10000),
		.call_count_max = 64,
	};
	struct tls_error error = { "" };

	memset(h, 0, sizeof(*h));
	h->id = id;
	pthread_mutex_init(&h->lock, NULL);
	pthread_cond_init(&h->changed, NULL);
	snprintf(directory, sizeof(directory), "%s/host%d", path, id);
	snprintf(name, sizeof(name), "host%d", id);
	if (!tls_joined(directory))
		ck_assert_msg(tls_join(running.url, running.token, directory, name, &error) == 0,
			      "%s", error.text);
	ck_assert_int_eq(client_create(&config, &h->client, text, sizeof(text)), 0);
}

static void host_start(struct host *h, uint8_t id)
{
	host_connect(h, id);
	ck_assert_int_eq(open_session(h), STATUS_OK);
	attach(h);
}

static void host_stop(struct host *h)
{
	client_destroy(h->client);
	pthread_mutex_destroy(&h->lock);
	pthread_cond_destroy(&h->changed);
}

/* The n-th recall that came; waits for it. */
static uint64_t wait_recall(struct host *h, uint32_t n, const struct handle *handle)
{
	struct timespec until = deadline_in(WAIT_S * 1000);
	uint64_t sequence;

	pthread_mutex_lock(&h->lock);
	while (h->recall_count <= n &&
	       pthread_cond_timedwait(&h->changed, &h->lock, &until) == 0)
		;
	ck_assert_uint_gt(h->recall_count, n);
	ck_assert(handle_equal(&h->recalls[n].handle, handle));
	sequence = h->recalls[n].sequence;
	pthread_mutex_unlock(&h->lock);
	return sequence;
}

static void acknowledge(struct host *h, uint64_t sequence, bool open, bool kept)
{
	uint8_t bytes[64];
	struct writer w = writer_of(bytes, sizeof(bytes));
	struct item_acknowledgement item = { sequence, open, kept };
	struct message m = { .type = MESSAGE_recall_acknowledge };
	struct call call;

	item_acknowledgement_write(&w, &item);
	m.recall_acknowledge = (struct message_recall_acknowledge){ h->session, { bytes, w.at } };
	call_start(h, &call, &m, NULL);
	call_wait(&call);
	ck_assert_uint_eq(call.message.acknowledged.status, STATUS_OK);
	call_finish(&call);
}

/* ---- requests ---- */

static struct message request_of(struct host *h, enum message_type type)
{
	struct message m = { .type = type };

	m.common.session = h->session;
	m.common.deadline_ms = 15000;
	return m;
}

static struct message modifying(struct host *h, enum message_type type)
{
	struct message m = request_of(h, type);

	m.common.slot = 1;
	m.common.sequence = ++h->sequence;
	return m;
}

static uint16_t ask(struct host *h, struct call *call, const struct message *m, const char *bulk)
{
	call_start(h, call, m, bulk);
	call_wait(call);
	ck_assert_int_eq(call->message.type, MESSAGE_reply);
	return call->message.reply.status;
}

static bool node_in(const struct call *call, enum node_role role, struct item_node *ret_node)
{
	struct slice nodes = call->message.reply.nodes;
	struct reader r = reader_of(nodes.data, nodes.length);

	while (item_node_read(&r, ret_node))
		if (ret_node->role == role)
			return true;
	return false;
}

/* One request, its status, and its target's node if it has one. */
static uint16_t ask_node(struct host *h, const struct message *m, const char *bulk,
			 struct item_node *ret_node)
{
	struct call call;
	uint16_t status = ask(h, &call, m, bulk);

	memset(ret_node, 0, sizeof(*ret_node));
	(void)node_in(&call, NODE_TARGET, ret_node);
	call_finish(&call);
	return status;
}

static struct handle make_file(struct host *h, const char *name)
{
	struct message m = modifying(h, MESSAGE_create);
	struct item_node node;

	m.create.directory = h->root;
	m.create.name = slice_of(name);
	m.create.mode = 0644;
	ck_assert_uint_eq(ask_node(h, &m, NULL, &node), STATUS_OK);
	ck_assert_uint_eq(node.open, 1);
	return node.handle;
}

static struct item_node getattr(struct host *h, struct handle handle)
{
	struct message m = request_of(h, MESSAGE_getattr);
	struct item_node node;

	m.getattr.handle = handle;
	ck_assert_uint_eq(ask_node(h, &m, NULL, &node), STATUS_OK);
	return node;
}

static struct message write_of(struct host *h, struct handle handle, bool append)
{
	struct message m = modifying(h, MESSAGE_write);

	m.write.handle = handle;
	m.write.append = append;
	return m;
}

static void close_file(struct host *h, struct handle handle)
{
	struct message m = request_of(h, MESSAGE_close);
	struct item_node node;

	m.close.handle = handle;
	ck_assert_uint_eq(ask_node(h, &m, NULL, &node), STATUS_OK);
}

/* ---- tests ---- */

static void setup(void)
{
	path_fd = scratch_make(path);
	ck_assert_int_eq(mkdirat(path_fd, "tree", 0755), 0);
	origin_start();
}

static void teardown(void)
{
	if (running.pid)
		origin_stop();
	scratch_remove(path, path_fd);
}

START_TEST(one_host_reads_what_another_wrote)
{
	struct host a, b;
	struct handle file;
	struct message m;
	struct item_node node;
	struct call call;

	host_start(&a, 1);
	host_start(&b, 2);
	file = make_file(&a, "file");
	m = write_of(&a, file, false);
	ck_assert_uint_eq(ask_node(&a, &m, "hello", &node), STATUS_OK);
	ck_assert_uint_eq(node.attributes.size, 5);
	m = request_of(&b, MESSAGE_lookup);
	m.lookup.directory = b.root;
	m.lookup.name = slice_of("file");
	m.lookup.data_bytes_max = 4096;
	ck_assert_uint_eq(ask(&b, &call, &m, NULL), STATUS_OK);
	ck_assert(node_in(&call, NODE_TARGET, &node));
	ck_assert(handle_equal(&node.handle, &file));
	ck_assert(node_in(&call, NODE_DIRECTORY, &node));
	ck_assert_uint_eq(call.message.reply.eof, 1);
	ck_assert_uint_eq(call.bulk_length, 5);
	ck_assert_mem_eq(call.bulk, "hello", 5);
	call_finish(&call);
	m = request_of(&b, MESSAGE_read);
	m.read.handle = file;
	m.read.offset = 1;
	m.read.count = 1 << 20;
	ck_assert_uint_eq(ask(&b, &call, &m, NULL), STATUS_OK);
	ck_assert_uint_eq(call.bulk_length, 4);
	ck_assert_mem_eq(call.bulk, "ello", 4);
	call_finish(&call);
	host_stop(&a);
	host_stop(&b);
}
END_TEST

START_TEST(a_write_waits_until_the_lease_of_another_host_is_given_up)
{
	struct host a, b;
	struct handle file;
	struct item_node node;
	struct message m;
	struct call call;
	uint64_t sequence;

	host_start(&a, 1);
	host_start(&b, 2);
	file = make_file(&a, "file");
	ck_assert_uint_eq(getattr(&b, file).lease, LEASE_READ);
	m = write_of(&a, file, false);
	call_start(&a, &call, &m, "new");
	sequence = wait_recall(&b, 0, &file);
	/* Meanwhile everyone is answered from the old state, without a lease. */
	node = getattr(&b, file);
	ck_assert_uint_eq(node.lease, LEASE_NONE);
	ck_assert_uint_eq(node.attributes.size, 0);
	ck_assert(!wait_flag(&a, &call.done, 100));
	acknowledge(&b, sequence, false, false);
	call_wait(&call);
	ck_assert_uint_eq(call.message.reply.status, STATUS_OK);
	ck_assert(node_in(&call, NODE_TARGET, &node));
	ck_assert(!change_equal(node.before, node.change));
	ck_assert_uint_eq(node.attributes.size, 3);
	call_finish(&call);
	ck_assert(change_equal(node.change, getattr(&b, file).change));
	host_stop(&a);
	host_stop(&b);
}
END_TEST

START_TEST(a_host_that_is_silent_delays_a_write_by_its_term_and_no_more)
{
	struct host a, b;
	struct handle file;
	struct call call, alive;
	struct message m;

	host_start(&a, 1);
	host_start(&b, 2);
	file = make_file(&a, "file");
	ck_assert_uint_eq(getattr(&b, file).lease, LEASE_READ);
	host_stop(&b);
	m = write_of(&a, file, false);
	call_start(&a, &call, &m, "new");
	m = (struct message){ .type = MESSAGE_keepalive, .keepalive = { .session = a.session } };
	while (!wait_flag(&a, &call.done, TERM_MS / 4)) {
		call_start(&a, &alive, &m, NULL);
		call_wait(&alive);
		call_finish(&alive);
	}
	call_wait(&call);
	ck_assert_uint_eq(call.message.reply.status, STATUS_OK);
	call_finish(&call);
	host_stop(&a);
}
END_TEST

START_TEST(a_repeated_write_is_answered_again_and_not_done_again)
{
	struct host a;
	struct handle file;
	struct item_node first, second;
	struct message m;
	struct call calls[8];

	host_start(&a, 1);
	file = make_file(&a, "file");
	m = write_of(&a, file, true);
	ck_assert_uint_eq(ask_node(&a, &m, "abc", &first), STATUS_OK);
	ck_assert_uint_eq(ask_node(&a, &m, "abc", &second), STATUS_OK);
	ck_assert_uint_eq(second.attributes.size, 3);
	ck_assert(change_equal(first.change, second.change));
	ck_assert_uint_eq(second.lease, LEASE_NONE);
	/* Also when they are under way together. */
	m = write_of(&a, file, true);
	for (int i = 0; i < 8; i++)
		call_start(&a, &calls[i], &m, "def");
	for (int i = 0; i < 8; i++) {
		call_wait(&calls[i]);
		ck_assert_uint_eq(calls[i].message.reply.status, STATUS_OK);
		ck_assert_uint_eq(calls[i].message.reply.offset, 3);
		call_finish(&calls[i]);
	}
	ck_assert_uint_eq(getattr(&a, file).attributes.size, 6);
	/* And what is older than the newest of its slot is refused. */
	m.common.sequence--;
	ck_assert_uint_eq(ask_node(&a, &m, "ghi", &second), STATUS_SUPERSEDED);
	host_stop(&a);
}
END_TEST

START_TEST(an_outcome_that_was_clear_at_once_is_kept_as_well)
{
	struct host a;
	struct item_node node;
	struct message m, create;

	host_start(&a, 1);
	m = modifying(&a, MESSAGE_unlink);
	m.unlink.directory = a.root;
	m.unlink.name = slice_of("file");
	ck_assert_uint_eq(ask_node(&a, &m, NULL, &node), STATUS_NOENT);
	create = modifying(&a, MESSAGE_create);
	create.common.slot = 2;
	create.create.directory = a.root;
	create.create.name = slice_of("file");
	create.create.mode = 0644;
	ck_assert_uint_eq(ask_node(&a, &create, NULL, &node), STATUS_OK);
	/* The delayed duplicate removes nothing. */
	ck_assert_uint_eq(ask_node(&a, &m, NULL, &node), STATUS_NOENT);
	ck_assert_uint_eq(getattr(&a, a.root).attributes.mode & S_IFMT, S_IFDIR);
	ck_assert_int_eq(faccessat(path_fd, "tree/file", F_OK, 0), 0);
	/* Nor does a handle that is none. */
	m = modifying(&a, MESSAGE_setattr);
	m.setattr.handle = a.root;
	m.setattr.handle.bytes[9] ^= 1;
	ck_assert_uint_eq(ask_node(&a, &m, NULL, &node), STATUS_BADHANDLE);
	host_stop(&a);
}
END_TEST

START_TEST(a_strict_read_waits_behind_a_write_and_brings_a_lease)
{
	struct host a, b;
	struct handle file;
	struct item_node node;
	struct call write, read;
	struct message m;
	uint64_t sequence;

	host_start(&a, 1);
	host_start(&b, 2);
	file = make_file(&a, "file");
	m = request_of(&b, MESSAGE_read);
	m.read.handle = file;
	m.read.count = 100;
	m.read.strict = 1;
	ck_assert_uint_eq(ask_node(&b, &m, NULL, &node), STATUS_OK);
	ck_assert_uint_eq(node.lease, LEASE_READ);
	m = write_of(&a, file, false);
	call_start(&a, &write, &m, "new");
	sequence = wait_recall(&b, 0, &file);
	acknowledge(&b, sequence, false, false);
	m = request_of(&b, MESSAGE_read);
	m.read.handle = file;
	m.read.count = 100;
	m.read.strict = 1;
	call_start(&b, &read, &m, NULL);
	call_wait(&write);
	call_wait(&read);
	ck_assert_uint_eq(read.message.reply.status, STATUS_OK);
	ck_assert(node_in(&read, NODE_TARGET, &node));
	ck_assert_uint_eq(node.lease, LEASE_READ);
	ck_assert_uint_eq(read.bulk_length, 3);
	call_finish(&write);
	call_finish(&read);
	host_stop(&a);
	host_stop(&b);
}
END_TEST

START_TEST(a_name_that_is_made_is_recalled_by_name)
{
	struct host a, b;
	struct item_node node;
	struct call call;
	struct message m;
	uint64_t sequence;

	host_start(&a, 1);
	host_start(&b, 2);
	m = request_of(&b, MESSAGE_lookup);
	m.lookup.directory = b.root;
	m.lookup.name = slice_of("absent");
	ck_assert_uint_eq(ask(&b, &call, &m, NULL), STATUS_NOENT);
	ck_assert(node_in(&call, NODE_DIRECTORY, &node));
	ck_assert_uint_eq(node.lease, LEASE_READ);
	call_finish(&call);
	m = modifying(&a, MESSAGE_mknod);
	m.mknod.directory = a.root;
	m.mknod.name = slice_of("absent");
	m.mknod.mode = S_IFDIR | 0755;
	call_start(&a, &call, &m, NULL);
	sequence = wait_recall(&b, 0, &b.root);
	ck_assert_uint_eq(b.recalls[0].scope, RECALL_NAMES);
	acknowledge(&b, sequence, false, true);
	call_wait(&call);
	ck_assert_uint_eq(call.message.reply.status, STATUS_OK);
	ck_assert(node_in(&call, NODE_TARGET, &node));
	ck_assert_uint_eq(node.attributes.mode & S_IFMT, S_IFDIR);
	call_finish(&call);
	host_stop(&a);
	host_stop(&b);
}
END_TEST

START_TEST(a_file_that_is_open_elsewhere_outlives_its_name)
{
	struct host a, b;
	struct handle file;
	struct item_node node;
	struct call call;
	struct message m;
	uint64_t sequence;

	host_start(&a, 1);
	host_start(&b, 2);
	file = make_file(&a, "file");
	close_file(&a, file);
	ck_assert_uint_eq(getattr(&b, file).lease, LEASE_READ);
	m = modifying(&a, MESSAGE_unlink);
	m.unlink.directory = a.root;
	m.unlink.name = slice_of("file");
	call_start(&a, &call, &m, NULL);
	sequence = wait_recall(&b, 0, &file);
	acknowledge(&b, sequence, true, false);
	/* Who removes the name gives up the inode as well. */
	acknowledge(&a, wait_recall(&a, 0, &file), false, false);
	call_wait(&call);
	ck_assert_uint_eq(call.message.reply.status, STATUS_OK);
	ck_assert(node_in(&call, NODE_REPLACED, &node));
	ck_assert_uint_eq(node.attributes.nlink, 0);
	call_finish(&call);
	ck_assert_int_lt(faccessat(path_fd, "tree/file", F_OK, 0), 0);
	ck_assert_uint_eq(getattr(&b, file).attributes.nlink, 0);
	close_file(&b, file);
	/* It goes in the background. */
	for (int i = 0; i < WAIT_S * 100; i++) {
		struct timespec pause = { 0, 10000000 };

		m = request_of(&b, MESSAGE_getattr);
		m.getattr.handle = file;
		if (ask_node(&b, &m, NULL, &node) == STATUS_STALE)
			break;
		nanosleep(&pause, NULL);
	}
	ck_assert_uint_eq(ask_node(&b, &m, NULL, &node), STATUS_STALE);
	host_stop(&a);
	host_stop(&b);
}
END_TEST

START_TEST(a_listing_brings_entries_with_nodes)
{
	struct host a;
	struct message m;
	struct call call;
	struct item_dirent item;
	struct reader r;
	unsigned with_node = 0, entries = 0;
	char name[16];

	host_start(&a, 1);
	for (int i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "f%d", i);
		(void)make_file(&a, name);
	}
	m = request_of(&a, MESSAGE_readdir);
	m.readdir.directory = a.root;
	m.readdir.count = 65536;
	m.readdir.attributes = 1;
	ck_assert_uint_eq(ask(&a, &call, &m, NULL), STATUS_OK);
	ck_assert_uint_eq(call.message.reply.eof, 1);
	r = reader_of(call.bulk, call.bulk_length);
	while (item_dirent_read(&r, &item)) {
		entries++;
		with_node += item.node.length > 0;
	}
	ck_assert_uint_eq(entries, 22);
	ck_assert_uint_eq(with_node, 20);
	ck_assert_uint_eq(call.message.reply.count, 22);
	call_finish(&call);
	host_stop(&a);
}
END_TEST

START_TEST(a_change_behind_the_origins_back_is_recalled_when_it_is_noticed)
{
	struct host a, b;
	struct handle file;
	struct item_node node, after;
	int fd;

	host_start(&a, 1);
	host_start(&b, 2);
	file = make_file(&a, "file");
	node = getattr(&b, file);
	ck_assert_uint_eq(node.lease, LEASE_READ);
	fd = openat(path_fd, "tree/file", O_WRONLY);
	ck_assert_int_eq(write(fd, "behind", 6), 6);
	close(fd);
	after = getattr(&a, file);
	ck_assert(!change_equal(node.change, after.change));
	acknowledge(&b, wait_recall(&b, 0, &file), false, false);
	host_stop(&a);
	host_stop(&b);
}
END_TEST

START_TEST(a_session_belongs_to_the_host_that_opened_it)
{
	struct host a, b;
	struct message m;
	struct item_node node;
	struct call call;

	host_start(&a, 1);
	host_start(&b, 2);
	m = request_of(&a, MESSAGE_getattr);
	m.getattr.handle = a.root;
	ck_assert_uint_eq(ask_node(&b, &m, NULL, &node), STATUS_FORBIDDEN);
	m = (struct message){ .type = MESSAGE_keepalive, .keepalive = { .session = a.session } };
	call_start(&b, &call, &m, NULL);
	call_wait(&call);
	ck_assert_uint_eq(call.message.kept_alive.status, STATUS_FORBIDDEN);
	call_finish(&call);
	call_start(&a, &call, &m, NULL);
	call_wait(&call);
	ck_assert_uint_eq(call.message.kept_alive.status, STATUS_OK);
	call_finish(&call);
	m = request_of(&a, MESSAGE_getattr);
	m.common.session = 12345;
	m.getattr.handle = a.root;
	ck_assert_uint_eq(ask_node(&a, &m, NULL, &node), STATUS_NOSESSION);
	m = write_of(&a, a.root, false);
	m.common.session = 12345;
	ck_assert_uint_eq(ask_node(&a, &m, "x", &node), STATUS_UNKNOWNOUTCOME);
	host_stop(&a);
	host_stop(&b);
}
END_TEST

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
	/* What the host does not know the fate of, it is told so. */
	ck_assert_uint_eq(ask_node(&a, &m, "x", &node), STATUS_UNKNOWNOUTCOME);
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
	TCase *tc = tcase_create("service");

	if (geteuid() != 0) {
		printf("1..0 # SKIP needs root: an origin opens files by handle\n");
		exit(EXIT_SUCCESS);
	}
	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, one_host_reads_what_another_wrote);
	tcase_add_test(tc, a_write_waits_until_the_lease_of_another_host_is_given_up);
	tcase_add_test(tc, a_host_that_is_silent_delays_a_write_by_its_term_and_no_more);
	tcase_add_test(tc, a_repeated_write_is_answered_again_and_not_done_again);
	tcase_add_test(tc, an_outcome_that_was_clear_at_once_is_kept_as_well);
	tcase_add_test(tc, a_strict_read_waits_behind_a_write_and_brings_a_lease);
	tcase_add_test(tc, a_name_that_is_made_is_recalled_by_name);
	tcase_add_test(tc, a_file_that_is_open_elsewhere_outlives_its_name);
	tcase_add_test(tc, a_listing_brings_entries_with_nodes);
	tcase_add_test(tc, a_change_behind_the_origins_back_is_recalled_when_it_is_noticed);
	tcase_add_test(tc, a_session_belongs_to_the_host_that_opened_it);
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

UNIT_MAIN("service", make_case)
