/*
 * origin_lab.h - a whole origin in a process of its own, over TLS on loopback, and hosts that speak
 * the protocol with the client library and nothing else. For one test program each; no threads of
 * its own but the client's.
 */
#ifndef TESTS_UNIT_ORIGIN_LAB_H
#define TESTS_UNIT_ORIGIN_LAB_H

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

#define TERM_MS 60000 /* nobody keeps sessions alive: longer than any test takes */
#define WAIT_S 60
#define RECALLS_MAX 16

static char path[SCRATCH_PATH_BYTES];
static int path_fd;

/* ---- the origin ---- */

static struct {
	pid_t pid;
	char url[128];
	char token[TLS_TOKEN_BYTES];
} running;
static unsigned origin_workers = 3;

static inline void origin_start_with(uint64_t term_ms, const char *tree)
{
	static char state[SCRATCH_PATH_BYTES + 8];
	struct origin_options options = {
		.listen = "127.0.0.1:0",
		.state = state,
		.name = "",
		.term = term_ms,
		.sessions = 16,
		.leases = 1000,
		.workers = origin_workers,
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

static inline void origin_start_with_term(uint64_t term_ms)
{
	static char tree[SCRATCH_PATH_BYTES + 8];

	snprintf(tree, sizeof(tree), "%s/tree", path);
	origin_start_with(term_ms, tree);
}

static inline void origin_start(void)
{
	origin_start_with_term(TERM_MS);
}

static inline int origin_end(int signal)
{
	int status;

	kill(running.pid, signal);
	ck_assert_int_eq(waitpid(running.pid, &status, 0), running.pid);
	running.pid = 0;
	return status;
}

static inline void origin_stop(void)
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
	bool yields; /* acknowledges every recall at once */
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

static inline void copy_answer(struct call *call, const struct client_answer *answer)
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

static inline void call_done(void *context, const struct client_answer *answer)
{
	struct call *call = (struct call *)context;

	pthread_mutex_lock(&call->host->lock);
	copy_answer(call, answer);
	call->done = true;
	pthread_cond_broadcast(&call->host->changed);
	pthread_mutex_unlock(&call->host->lock);
}

static inline void call_start(struct host *h, struct call *call, const struct message *m,
			      const char *bulk)
{
	memset(call, 0, sizeof(*call));
	call->host = h;
	ck_assert_int_eq(client_call(h->client, message_is_request(m->type) ? CLIENT_DATA :
									      CLIENT_CONTROL,
				     "/v1/rpc", m, slice_of(bulk ? bulk : ""),
				     duration_ms(WAIT_S * 1000), call_done, call, NULL), 0);
}

static inline struct timespec deadline_in(unsigned ms)
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
static inline bool wait_flag(struct host *h, const bool *flag, unsigned ms)
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

static inline void call_wait(struct call *call)
{
	ck_assert(wait_flag(call->host, &call->done, WAIT_S * 1000));
	ck_assert_int_eq(call->error, 0);
}

static inline void call_finish(struct call *call)
{
	free(call->bytes);
	free(call->bulk);
}

static inline void yielded(void *context, const struct client_answer *answer)
{
	/* Nobody waits for it: what was recalled is given up at the latest with the term. */
}

static inline void yield_lease(struct host *h, uint64_t sequence)
{
	uint8_t bytes[64];
	struct writer w = writer_of(bytes, sizeof(bytes));
	struct item_acknowledgement item = { sequence, 0, 0 };
	struct message m = { .type = MESSAGE_recall_acknowledge };

	item_acknowledgement_write(&w, &item);
	m.recall_acknowledge = (struct message_recall_acknowledge){ h->session, { bytes, w.at } };
	if (client_call(h->client, CLIENT_CONTROL, "/v1/rpc", &m, slice_of(""),
			duration_ms(WAIT_S * 1000), yielded, h, NULL))
		abort();
}

static inline void received(void *context, struct slice bytes)
{
	struct host *h = (struct host *)context;
	struct message m;

	if (message_decode(bytes, &m) || m.type != MESSAGE_recall)
		return;
	if (h->yields)
		yield_lease(h, m.recall.sequence);
	pthread_mutex_lock(&h->lock);
	if (h->recall_count < RECALLS_MAX) {
		h->recalls[h->recall_count].sequence = m.recall.sequence;
		h->recalls[h->recall_count].handle = m.recall.handle;
		h->recalls[h->recall_count++].scope = m.recall.scope;
	}
	pthread_cond_broadcast(&h->changed);
	pthread_mutex_unlock(&h->lock);
}

static inline void ended(void *context, int error, int http_status, const char *text)
{
	struct host *h = (struct host *)context;

	pthread_mutex_lock(&h->lock);
	h->stream_ended = true;
	pthread_cond_broadcast(&h->changed);
	pthread_mutex_unlock(&h->lock);
}

static inline uint16_t open_session(struct host *h)
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

static inline void attach(struct host *h)
{
	struct message m = { .type = MESSAGE_recall_stream,
			     .recall_stream = { .session = h->session } };

	ck_assert_int_eq(client_stream(h->client, "/v1/recalls", &m, received, ended, h,
				       &h->stream), 0);
}

static inline void host_connect(struct host *h, uint8_t id)
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

static inline void host_start(struct host *h, uint8_t id)
{
	host_connect(h, id);
	ck_assert_int_eq(open_session(h), STATUS_OK);
	attach(h);
}

static inline void host_stop(struct host *h)
{
	client_destroy(h->client);
	pthread_mutex_destroy(&h->lock);
	pthread_cond_destroy(&h->changed);
}

/* The n-th recall that came; waits for it. */
static inline uint64_t wait_recall(struct host *h, uint32_t n, const struct handle *handle)
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

static inline void acknowledge(struct host *h, uint64_t sequence, bool open, bool kept)
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

static inline struct message request_of(struct host *h, enum message_type type)
{
	struct message m = { .type = type };

	m.common.session = h->session;
	m.common.deadline_ms = 120000;
	return m;
}

static inline struct message modifying(struct host *h, enum message_type type)
{
	struct message m = request_of(h, type);

	m.common.slot = 1;
	m.common.sequence = ++h->sequence;
	return m;
}

static inline uint16_t ask(struct host *h, struct call *call, const struct message *m,
			   const char *bulk)
{
	call_start(h, call, m, bulk);
	call_wait(call);
	ck_assert_int_eq(call->message.type, MESSAGE_reply);
	return call->message.reply.status;
}

static inline bool node_in(const struct call *call, enum node_role role, struct item_node *ret_node)
{
	struct slice nodes = call->message.reply.nodes;
	struct reader r = reader_of(nodes.data, nodes.length);

	while (item_node_read(&r, ret_node))
		if (ret_node->role == role)
			return true;
	return false;
}

/* One request, its status, and its target's node if it has one. */
static inline uint16_t ask_node(struct host *h, const struct message *m, const char *bulk,
			 struct item_node *ret_node)
{
	struct call call;
	uint16_t status = ask(h, &call, m, bulk);

	memset(ret_node, 0, sizeof(*ret_node));
	(void)node_in(&call, NODE_TARGET, ret_node);
	call_finish(&call);
	return status;
}

static inline struct handle make_file(struct host *h, const char *name)
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

static inline struct item_node getattr(struct host *h, struct handle handle)
{
	struct message m = request_of(h, MESSAGE_getattr);
	struct item_node node;

	m.getattr.handle = handle;
	ck_assert_uint_eq(ask_node(h, &m, NULL, &node), STATUS_OK);
	return node;
}

static inline struct message write_of(struct host *h, struct handle handle, bool append)
{
	struct message m = modifying(h, MESSAGE_write);

	m.write.handle = handle;
	m.write.append = append;
	return m;
}

static inline void close_file(struct host *h, struct handle handle)
{
	struct message m = request_of(h, MESSAGE_close);
	struct item_node node;

	m.close.handle = handle;
	ck_assert_uint_eq(ask_node(h, &m, NULL, &node), STATUS_OK);
}

/* ---- fixture ---- */

static inline void setup(void)
{
	path_fd = scratch_make(path);
	ck_assert_int_eq(mkdirat(path_fd, "tree", 0755), 0);
	origin_start();
}

static inline void teardown(void)
{
	if (running.pid)
		origin_stop();
	scratch_remove(path, path_fd);
}

#endif
