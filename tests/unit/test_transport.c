/* A real server and a real client over loopback, with TLS unless a test says otherwise. */
#include "scratch.h"
#include "unit.h"

#include <curl/curl.h>
#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "lease/status.h"
#include "transport/client.h"
#include "transport/server.h"
#include "transport/tls.h"

#define HELD_MAX 512

struct lab {
	char directory[SCRATCH_PATH_BYTES];
	int directory_fd;
	char origin[SCRATCH_PATH_BYTES + 8];
	char host[SCRATCH_PATH_BYTES + 8];
	char url[64];
	char token[TLS_TOKEN_BYTES];
	SSL_CTX *tls;
	struct server *server;
	struct client *client;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct server_request *held[HELD_MAX]; /* fsync: answered when the test says so */
	unsigned held_count;
	struct server_stream *stream;
	unsigned streams_ended;
	bool peer_seen;
	char peer[80];
	atomic_uint released;
};

/* ---- the origin of these tests ---- */

static uint64_t checksum(const uint8_t *data, size_t length)
{
	uint64_t sum = 14695981039346656037u;

	for (size_t i = 0; i < length; i++)
		sum = (sum ^ data[i]) * 1099511628211u;
	return sum;
}

static void fill(uint8_t *data, size_t length, uint64_t seed)
{
	for (size_t i = 0; i < length; i++)
		data[i] = (uint8_t)((i * 2654435761u + seed) >> 7);
}

static void release_bulk(void *context, void *data)
{
	struct lab *lab = context;

	lab->released++;
	free(data);
}

static void stream_ended(void *context, struct server_stream *stream)
{
	struct lab *lab = context;

	pthread_mutex_lock(&lab->lock);
	lab->streams_ended++;
	if (lab->stream == stream)
		lab->stream = NULL;
	pthread_cond_broadcast(&lab->changed);
	pthread_mutex_unlock(&lab->lock);
	server_stream_unref(stream);
}

static struct server_bulk no_bulk(void)
{
	return (struct server_bulk){ .data = NULL };
}

static void answer_status(struct server_request *request, uint16_t status, uint64_t offset)
{
	struct message reply = { .type = MESSAGE_reply };

	reply.reply.status = status;
	reply.reply.offset = offset;
	server_respond(request, &reply, no_bulk());
}

static void answer_read(struct lab *lab, struct server_request *request, const struct message *m)
{
	struct message reply = { .type = MESSAGE_reply };
	struct server_bulk bulk = { malloc(m->read.count), m->read.count, release_bulk, lab };

	fill(bulk.data, bulk.length, m->read.offset);
	reply.reply.offset = m->read.offset;
	server_respond(request, &reply, bulk);
}

static void answer_join(struct lab *lab, struct server_request *request, struct slice body)
{
	json_t *object = json_loadb((const char *)body.data, body.length, 0, NULL);
	const char *token = json_string_value(json_object_get(object, "token"));
	const char *pem = json_string_value(json_object_get(object, "request"));
	struct tls_error error;
	char *certificate = NULL;
	int result =
		tls_sign(lab->origin, token ? token : "", pem ? pem : "", &certificate, &error);
	json_t *answer = json_pack("{s:s}", "certificate", result ? "" : certificate);
	char *text = json_dumps(answer, 0);

	server_respond_plain(request,
			     result == -EACCES ? 403
			     : result	       ? 400
					       : 200,
			     "application/json", NULL,
			     (struct server_bulk){ text, strlen(text), release_bulk, lab });
	free(certificate);
	json_decref(answer);
	json_decref(object);
}

static void hold(struct lab *lab, struct server_request *request)
{
	pthread_mutex_lock(&lab->lock);
	ck_assert_uint_lt(lab->held_count, HELD_MAX);
	lab->held[lab->held_count++] = request;
	pthread_cond_broadcast(&lab->changed);
	pthread_mutex_unlock(&lab->lock);
}

static void handle(void *context, struct server_request *request)
{
	struct lab *lab = context;
	struct server_request_view view;
	struct message m;

	server_request_view(request, &view);
	pthread_mutex_lock(&lab->lock);
	lab->peer_seen = view.peer != NULL;
	(void)snprintf(lab->peer, sizeof(lab->peer), "%s", view.peer ? view.peer : "");
	pthread_mutex_unlock(&lab->lock);
	if (strcmp(view.path, "/v1/join") == 0) {
		answer_join(lab, request, view.body);
		return;
	}
	if (strcmp(view.method, "GET") == 0) {
		server_respond_plain(
			request, 200, "text/plain", "x-range: none",
			(struct server_bulk){ strdup("hello\n"), 6, release_bulk, lab });
		return;
	}
	if (view.message.length == 0 || message_decode(view.message, &m) < 0) {
		answer_status(request, STATUS_BADMESSAGE, 0);
		return;
	}
	switch (m.type) {
	case MESSAGE_read:
		answer_read(lab, request, &m);
		break;
	case MESSAGE_write:
		answer_status(request, STATUS_OK, checksum(view.bulk.data, view.bulk.length));
		break;
	case MESSAGE_fsync:
		if (server_request_ordinary(request))
			hold(lab, request);
		else
			answer_status(request, STATUS_PUSHBACK, 0);
		break;
	case MESSAGE_keepalive:
		hold(lab, request);
		break;
	case MESSAGE_recall_stream:
		pthread_mutex_lock(&lab->lock);
		lab->stream = server_stream_start(request, stream_ended, lab);
		pthread_cond_broadcast(&lab->changed);
		pthread_mutex_unlock(&lab->lock);
		break;
	default:
		answer_status(request, STATUS_NOENT, m.common.sequence);
	}
}

/* ---- the laboratory ---- */

static void start_server(struct lab *lab, unsigned request_count_max)
{
	struct server_config config = {
		.address = "127.0.0.1:0",
		.tls = lab->tls,
		.loop_count = 2,
		.connection_count_max = 64,
		.request_count_max = request_count_max,
		.handler = handle,
		.context = lab,
	};
	char text[256];

	ck_assert_msg(server_create(&config, &lab->server, text, sizeof(text)) == 0, "%s", text);
	(void)snprintf(lab->url, sizeof(lab->url), "%s://127.0.0.1:%u", lab->tls ? "https" : "http",
		       server_port(lab->server));
}

static struct client *make_client(struct lab *lab, const char *directory)
{
	struct client_config config = {
		.url = lab->url,
		.tls_directory = lab->tls ? directory : NULL,
		.data_connections = 2,
		.connect_timeout = duration_ms(10000),
		.call_count_max = 1000,
	};
	struct client *client = NULL;
	char text[512];

	ck_assert_msg(client_create(&config, &client, text, sizeof(text)) == 0, "%s", text);
	return client;
}

static void lab_init(struct lab *lab, bool tls, unsigned request_count_max)
{
	struct tls_error error;

	memset(lab, 0, sizeof(*lab));
	pthread_mutex_init(&lab->lock, NULL);
	pthread_cond_init(&lab->changed, NULL);
	lab->directory_fd = scratch_make(lab->directory);
	(void)snprintf(lab->origin, sizeof(lab->origin), "%s/origin", lab->directory);
	(void)snprintf(lab->host, sizeof(lab->host), "%s/host", lab->directory);
	if (tls) {
		ck_assert_msg(tls_authority_prepare(lab->origin, NULL, lab->token, &error) == 0,
			      "%s", error.text);
		lab->tls = tls_server_context(lab->origin, &error);
		ck_assert_msg(lab->tls != NULL, "%s", error.text);
	}
	start_server(lab, request_count_max);
	if (tls)
		ck_assert_msg(tls_join(lab->url, lab->token, lab->host, "node-1", &error) == 0,
			      "%s", error.text);
	lab->client = make_client(lab, lab->host);
}

static void answer_held(struct lab *lab)
{
	unsigned count;
	struct server_request *held[HELD_MAX];

	pthread_mutex_lock(&lab->lock);
	count = lab->held_count;
	memcpy(held, lab->held, sizeof(held));
	lab->held_count = 0;
	pthread_mutex_unlock(&lab->lock);
	for (unsigned i = 0; i < count; i++)
		answer_status(held[i], STATUS_OK, 0);
}

static void wait_held(struct lab *lab, unsigned count)
{
	pthread_mutex_lock(&lab->lock);
	while (lab->held_count < count)
		pthread_cond_wait(&lab->changed, &lab->lock);
	pthread_mutex_unlock(&lab->lock);
}

static void lab_finish(struct lab *lab)
{
	client_destroy(lab->client);
	answer_held(lab);
	server_destroy(lab->server);
	answer_held(lab);
	SSL_CTX_free(lab->tls);
	scratch_remove(lab->directory, lab->directory_fd);
	pthread_mutex_destroy(&lab->lock);
	pthread_cond_destroy(&lab->changed);
}

/* What became of the calls of a test. */
struct outcome {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned done;
	unsigned good;
	int error;
	bool unsent;
	int http_status;
	uint16_t status;
	uint64_t offset;
	uint64_t sum;
	size_t length;
};

static void outcome_init(struct outcome *o)
{
	memset(o, 0, sizeof(*o));
	pthread_mutex_init(&o->lock, NULL);
	pthread_cond_init(&o->changed, NULL);
}

static void take_answer(void *context, const struct client_answer *answer)
{
	struct outcome *o = context;
	struct message m;

	pthread_mutex_lock(&o->lock);
	o->done++;
	ck_assert_ptr_nonnull(answer->text);
	if (answer->error) {
		o->error = answer->error;
		o->unsent = answer->unsent;
	} else {
		o->http_status = answer->http_status;
		o->length = answer->bulk.length;
		if (message_decode(answer->message, &m) == 0) {
			o->good++;
			o->status = m.reply.status;
			o->offset = m.reply.offset;
			o->sum = checksum(answer->bulk.data, answer->bulk.length);
		}
	}
	pthread_cond_broadcast(&o->changed);
	pthread_mutex_unlock(&o->lock);
}

static void outcome_wait(struct outcome *o, unsigned count)
{
	pthread_mutex_lock(&o->lock);
	while (o->done < count)
		pthread_cond_wait(&o->changed, &o->lock);
	pthread_mutex_unlock(&o->lock);
}

static struct message of_type(enum message_type type, uint64_t sequence)
{
	struct message m = { .type = type };

	m.common.sequence = sequence;
	return m;
}

static void call_on(struct lab *lab, enum client_channel channel, const struct message *m,
		    struct slice bulk, uint64_t timeout_ms, struct outcome *o)
{
	ck_assert_int_eq(client_call(lab->client, channel, "/v1/rpc", m, bulk,
				     duration_ms(timeout_ms), take_answer, o, NULL),
			 0);
}

static void call(struct lab *lab, const struct message *m, struct slice bulk, uint64_t timeout_ms,
		 struct outcome *o)
{
	call_on(lab, CLIENT_DATA, m, bulk, timeout_ms, o);
}

static const struct slice nothing = { NULL, 0 };

/* ---- tests ---- */

static void many_small_calls(bool tls)
{
	struct lab lab;
	struct outcome o;
	unsigned sent = 0;

	lab_init(&lab, tls, 4096);
	outcome_init(&o);
	while (sent < 5000) {
		struct message m = of_type(MESSAGE_getattr, sent + 1);
		int error =
			client_call(lab.client, sent % 2 ? CLIENT_DATA : CLIENT_CONTROL, "/v1/rpc",
				    &m, nothing, duration_ms(60000), take_answer, &o, NULL);

		if (error == 0)
			sent++;
		else
			outcome_wait(&o, sent - 500);
	}
	outcome_wait(&o, sent);
	ck_assert_int_eq(o.error, 0);
	ck_assert_uint_eq(o.good, sent);
	ck_assert_uint_eq(o.status, STATUS_NOENT);
	ck_assert_int_eq(o.http_status, 404);
	lab_finish(&lab);
}

START_TEST(thousands_of_small_calls_are_answered)
{
	many_small_calls(true);
}
END_TEST

START_TEST(small_calls_work_without_tls_on_loopback)
{
	many_small_calls(false);
}
END_TEST

static void bulk_both_ways(bool tls)
{
	struct lab lab;
	struct outcome o;
	uint8_t *data = malloc(BULK_BYTES_MAX);
	struct slice bulk = { data, BULK_BYTES_MAX };

	lab_init(&lab, tls, 256);
	fill(data, BULK_BYTES_MAX, 7);
	outcome_init(&o);
	for (unsigned i = 0; i < 50; i++) {
		struct message m = of_type(MESSAGE_write, i + 1);

		call(&lab, &m, bulk, 60000, &o);
	}
	outcome_wait(&o, 50);
	ck_assert_int_eq(o.error, 0);
	ck_assert_uint_eq(o.good, 50);
	ck_assert_uint_eq(o.offset, checksum(data, BULK_BYTES_MAX));

	outcome_init(&o);
	for (unsigned i = 0; i < 50; i++) {
		struct message m = of_type(MESSAGE_read, i + 1);

		m.read.count = BULK_BYTES_MAX;
		m.read.offset = 7;
		call(&lab, &m, nothing, 60000, &o);
	}
	outcome_wait(&o, 50);
	ck_assert_int_eq(o.error, 0);
	ck_assert_uint_eq(o.good, 50);
	ck_assert_uint_eq(o.length, BULK_BYTES_MAX);
	ck_assert_uint_eq(o.sum, checksum(data, BULK_BYTES_MAX));
	lab_finish(&lab);
	ck_assert_uint_ge(lab.released, 50);
	free(data);
}

START_TEST(bulk_arrives_whole_both_ways)
{
	bulk_both_ways(true);
}
END_TEST

START_TEST(bulk_arrives_whole_without_tls)
{
	bulk_both_ways(false);
}
END_TEST

START_TEST(a_call_is_cancelled_in_flight)
{
	struct lab lab;
	struct outcome o;
	struct message m = of_type(MESSAGE_fsync, 1);
	struct client_call *in_flight;

	lab_init(&lab, true, 256);
	outcome_init(&o);
	ck_assert_int_eq(client_call(lab.client, CLIENT_DATA, "/v1/rpc", &m, nothing,
				     duration_ms(60000), take_answer, &o, &in_flight),
			 0);
	wait_held(&lab, 1);
	client_cancel(in_flight);
	outcome_wait(&o, 1);
	ck_assert_int_eq(o.error, -ECANCELED);
	while (!server_request_cancelled(lab.held[0]))
		usleep(1000);
	answer_held(&lab);

	/* The connection goes on. */
	outcome_init(&o);
	m = of_type(MESSAGE_getattr, 1);
	call(&lab, &m, nothing, 60000, &o);
	outcome_wait(&o, 1);
	ck_assert_uint_eq(o.good, 1);
	lab_finish(&lab);
}
END_TEST

START_TEST(uploads_that_are_cancelled_let_the_next_ones_go)
{
	struct message m = of_type(MESSAGE_fsync, 1);
	const size_t length = BULK_BYTES_MAX;
	uint8_t *data = calloc(1, length);
	struct client_call *calls[16];
	unsigned done = 0;
	struct outcome o;
	struct lab lab;

	lab_init(&lab, true, 256);
	outcome_init(&o);
	/* None is answered before it is cancelled: some wait, some are on their way, some have arrived. */
	for (unsigned i = 0; i < 16; i++)
		ck_assert_int_eq(client_call(lab.client, CLIENT_DATA, "/v1/rpc", &m,
					     (struct slice){ data, length }, duration_ms(600000),
					     take_answer, &o, &calls[i]),
				 0);
	for (unsigned i = 0; i < 16; i += 2)
		client_cancel(calls[i]);
	while (done < 16) {
		usleep(1000);
		answer_held(&lab);
		pthread_mutex_lock(&o.lock);
		done = o.done;
		pthread_mutex_unlock(&o.lock);
	}
	ck_assert_int_eq(o.error, -ECANCELED);
	ck_assert_uint_eq(o.good, 8);
	lab_finish(&lab);
	free(data);
}
END_TEST

START_TEST(thousands_of_cancels_do_not_cost_the_connection)
{
	struct lab lab;
	struct outcome o;
	struct client_call *in_flight;
	struct client_counters counters;

	lab_init(&lab, true, 256);
	outcome_init(&o);
	for (unsigned i = 0; i < 2000; i++) {
		struct message m = of_type(MESSAGE_fsync, i + 1);

		ck_assert_int_eq(client_call(lab.client, CLIENT_CONTROL, "/v1/rpc", &m, nothing,
					     duration_ms(60000), take_answer, &o, &in_flight),
				 0);
		wait_held(&lab, 1);
		client_cancel(in_flight);
		outcome_wait(&o, i + 1);
		answer_held(&lab);
	}
	ck_assert_int_eq(o.error, -ECANCELED);
	client_counters(lab.client, &counters);
	ck_assert_uint_eq(counters.cancelled, 2000);
	ck_assert_uint_eq(counters.failures, 0);
	lab_finish(&lab);
}
END_TEST

START_TEST(a_deadline_ends_a_call)
{
	struct lab lab;
	struct outcome o;
	struct message m = of_type(MESSAGE_fsync, 1);

	lab_init(&lab, true, 256);
	outcome_init(&o);
	call(&lab, &m, nothing, 50, &o);
	outcome_wait(&o, 1);
	ck_assert_int_eq(o.error, -ETIMEDOUT);
	outcome_init(&o);
	call(&lab, &m, nothing, 0, &o);
	outcome_wait(&o, 1);
	ck_assert_int_eq(o.error, -ETIMEDOUT);
	lab_finish(&lab);
}
END_TEST

START_TEST(calls_end_when_the_server_is_destroyed)
{
	struct lab lab;
	struct outcome o;

	lab_init(&lab, true, 256);
	outcome_init(&o);
	for (unsigned i = 0; i < 20; i++) {
		struct message m = of_type(MESSAGE_fsync, i + 1);

		call(&lab, &m, nothing, 60000, &o);
	}
	wait_held(&lab, 20);
	server_destroy(lab.server);
	outcome_wait(&o, 20);
	ck_assert_int_eq(o.error, -ECONNRESET);
	answer_held(&lab); /* late answers are thrown away */
	lab.server = NULL;
	/* Nobody is there any more. */
	outcome_init(&o);
	{
		struct message m = of_type(MESSAGE_getattr, 1);

		call(&lab, &m, nothing, 60000, &o);
	}
	outcome_wait(&o, 1);
	ck_assert_int_eq(o.error, -ECONNREFUSED);
	lab_finish(&lab);
}
END_TEST

START_TEST(a_request_leaves_the_host_at_most_once)
{
	struct message held = of_type(MESSAGE_fsync, 1), quick = of_type(MESSAGE_getattr, 1);
	struct lab lab;
	struct outcome o;

	lab_init(&lab, true, 256);
	outcome_init(&o);
	call(&lab, &quick, nothing, 60000, &o);
	outcome_wait(&o, 1);
	ck_assert_uint_eq(o.good, 1);
	/* On the connection that the first one made: libcurl would send it again on another. */
	outcome_init(&o);
	call(&lab, &held, nothing, 60000, &o);
	wait_held(&lab, 1);
	server_destroy(lab.server);
	outcome_wait(&o, 1);
	ck_assert_int_eq(o.error, -ECONNRESET);
	ck_assert(!o.unsent);
	answer_held(&lab);
	lab.server = NULL;
	outcome_init(&o);
	call(&lab, &quick, nothing, 60000, &o);
	outcome_wait(&o, 1);
	ck_assert_int_eq(o.error, -ECONNREFUSED);
	ck_assert(o.unsent);
	lab_finish(&lab);
}
END_TEST

START_TEST(calls_end_when_the_client_is_destroyed)
{
	struct lab lab;
	struct outcome o;

	lab_init(&lab, true, 256);
	outcome_init(&o);
	for (unsigned i = 0; i < 300; i++) {
		struct message m = of_type(MESSAGE_fsync, i + 1);

		call(&lab, &m, nothing, 60000, &o);
	}
	client_destroy(lab.client);
	lab.client = NULL;
	ck_assert_uint_eq(o.done, 300);
	ck_assert_int_eq(o.error, -ECANCELED);
	lab_finish(&lab);
}
END_TEST

struct listener {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint64_t last;
	unsigned received;
	unsigned ended;
	int error;
	int http_status;
};

static void hear(void *context, struct slice message)
{
	struct listener *l = context;
	struct message m;

	ck_assert_int_eq(message_decode(message, &m), 0);
	pthread_mutex_lock(&l->lock);
	ck_assert_uint_eq(m.recall.sequence, l->last + 1);
	l->last++;
	l->received++;
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
}

static void hear_end(void *context, int error, int http_status, const char *text)
{
	struct listener *l = context;

	pthread_mutex_lock(&l->lock);
	l->ended++;
	l->error = error;
	l->http_status = http_status;
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
}

static struct client_stream *open_stream(struct lab *lab, struct listener *l)
{
	struct message m = { .type = MESSAGE_recall_stream };
	struct client_stream *stream;

	ck_assert_int_eq(client_stream(lab->client, "/v1/recalls", &m, hear, hear_end, l, &stream),
			 0);
	pthread_mutex_lock(&lab->lock);
	while (!lab->stream)
		pthread_cond_wait(&lab->changed, &lab->lock);
	pthread_mutex_unlock(&lab->lock);
	return stream;
}

static void send_recalls(struct lab *lab, uint64_t from, uint64_t to)
{
	for (uint64_t i = from; i <= to; i++) {
		struct message m = { .type = MESSAGE_recall };
		int error;

		m.recall.sequence = i;
		pthread_mutex_lock(&lab->lock);
		error = lab->stream ? server_stream_send(lab->stream, &m) : -EPIPE;
		pthread_mutex_unlock(&lab->lock);
		ck_assert_int_eq(error, 0);
	}
}

static void wait_for(struct listener *l, unsigned received, unsigned ended)
{
	pthread_mutex_lock(&l->lock);
	while (l->received < received || l->ended < ended)
		pthread_cond_wait(&l->changed, &l->lock);
	pthread_mutex_unlock(&l->lock);
}

START_TEST(a_stream_of_messages_keeps_order_and_reconnects)
{
	struct lab lab;
	struct listener l = { .lock = PTHREAD_MUTEX_INITIALIZER,
			      .changed = PTHREAD_COND_INITIALIZER };
	struct client_stream *stream;

	lab_init(&lab, true, 256);
	(void)open_stream(&lab, &l);
	send_recalls(&lab, 1, 1000);
	wait_for(&l, 1000, 0);

	/* The origin ends it. */
	pthread_mutex_lock(&lab.lock);
	server_stream_end(lab.stream);
	while (lab.streams_ended < 1)
		pthread_cond_wait(&lab.changed, &lab.lock);
	pthread_mutex_unlock(&lab.lock);
	wait_for(&l, 1000, 1);
	ck_assert_int_eq(l.error, 0);
	ck_assert_int_eq(l.http_status, 200);

	/* The network changes. */
	(void)open_stream(&lab, &l);
	send_recalls(&lab, 1001, 1100);
	wait_for(&l, 1100, 1);
	client_reconnect(lab.client);
	wait_for(&l, 1100, 2);
	ck_assert_int_eq(l.error, -ECONNRESET);
	pthread_mutex_lock(&lab.lock);
	while (lab.streams_ended < 2)
		pthread_cond_wait(&lab.changed, &lab.lock);
	pthread_mutex_unlock(&lab.lock);

	/* The host closes it. */
	stream = open_stream(&lab, &l);
	send_recalls(&lab, 1101, 1200);
	wait_for(&l, 1200, 2);
	client_stream_close(stream);
	wait_for(&l, 1200, 3);
	ck_assert_int_eq(l.error, -ECANCELED);
	pthread_mutex_lock(&lab.lock);
	while (lab.streams_ended < 3)
		pthread_cond_wait(&lab.changed, &lab.lock);
	pthread_mutex_unlock(&lab.lock);
	lab_finish(&lab);
}
END_TEST

START_TEST(the_peer_has_the_name_in_its_certificate)
{
	struct lab lab;
	struct outcome o;
	struct message m = of_type(MESSAGE_getattr, 1);

	lab_init(&lab, true, 256);
	/* tls_join() came without a certificate. */
	ck_assert(!lab.peer_seen);
	outcome_init(&o);
	call(&lab, &m, nothing, 60000, &o);
	outcome_wait(&o, 1);
	ck_assert(lab.peer_seen);
	ck_assert_str_eq(lab.peer, "node-1");
	lab_finish(&lab);
}
END_TEST

START_TEST(a_host_of_another_origin_is_refused)
{
	struct lab ours;
	struct lab other;
	struct outcome o;
	struct message m = of_type(MESSAGE_getattr, 1);
	char text[512];

	lab_init(&ours, true, 256);
	lab_init(&other, true, 256);
	/* It does not know the origin: refused by the host. */
	client_destroy(ours.client);
	ours.client = make_client(&ours, other.host);
	outcome_init(&o);
	call(&ours, &m, nothing, 60000, &o);
	outcome_wait(&o, 1);
	ck_assert_int_eq(o.error, -EKEYREJECTED);

	/* It trusts the origin, but has a certificate of another one: refused by the origin. */
	(void)snprintf(text, sizeof(text), "cp %s/ca.pem %s/ca.pem", ours.host, other.host);
	ck_assert_int_eq(system(text), 0);
	client_destroy(ours.client);
	ours.client = make_client(&ours, other.host);
	outcome_init(&o);
	call(&ours, &m, nothing, 60000, &o);
	outcome_wait(&o, 1);
	ck_assert_int_eq(o.error, -EKEYREJECTED);
	lab_finish(&ours);
	lab_finish(&other);
}
END_TEST

START_TEST(requests_beyond_the_bound_are_pushed_back)
{
	struct lab lab;
	struct outcome o;
	struct outcome refused;
	struct message m = of_type(MESSAGE_fsync, 1);

	lab_init(&lab, true, 4);
	outcome_init(&o);
	for (unsigned i = 0; i < 4; i++)
		call(&lab, &m, nothing, 60000, &o);
	wait_held(&lab, 4);
	outcome_init(&refused);
	call(&lab, &m, nothing, 60000, &refused);
	outcome_wait(&refused, 1);
	ck_assert_int_eq(refused.error, 0);
	ck_assert_int_eq(refused.http_status, 429);
	ck_assert_uint_eq(refused.status, STATUS_PUSHBACK);
	answer_held(&lab);
	outcome_wait(&o, 4);
	ck_assert_uint_eq(o.good, 4);
	lab_finish(&lab);
}
END_TEST

/* The answer to one more, which must come at once. */
static void call_one(struct lab *lab, enum client_channel channel, enum message_type type,
		     struct outcome *o)
{
	struct message m = of_type(type, 1);

	outcome_init(o);
	call_on(lab, channel, &m, nothing, 60000, o);
	outcome_wait(o, 1);
	ck_assert_int_eq(o->error, 0);
}

START_TEST(control_messages_have_room_when_requests_are_at_their_bound)
{
	struct lab lab;
	struct outcome held;
	struct outcome o;
	struct message m = of_type(MESSAGE_fsync, 1);

	lab_init(&lab, true, 4);
	outcome_init(&held);
	for (unsigned i = 0; i < 4; i++)
		call(&lab, &m, nothing, 60000, &held);
	wait_held(&lab, 4);
	call_one(&lab, CLIENT_DATA, MESSAGE_statfs, &o);
	ck_assert_int_eq(o.http_status, 429);
	call_one(&lab, CLIENT_CONTROL, MESSAGE_statfs, &o);
	ck_assert_uint_eq(o.status, STATUS_NOENT);
	/* What is none, for all that its header says, is one of the others. */
	call_one(&lab, CLIENT_CONTROL, MESSAGE_fsync, &o);
	ck_assert_int_eq(o.http_status, 429);
	ck_assert_uint_eq(o.status, STATUS_PUSHBACK);
	answer_held(&lab);
	outcome_wait(&held, 4);
	/* Its room is given back either way. */
	outcome_init(&held);
	for (unsigned i = 0; i < 4; i++)
		call_on(&lab, i % 2 ? CLIENT_CONTROL : CLIENT_DATA, &m, nothing, 60000, &held);
	wait_held(&lab, 4);
	call_one(&lab, CLIENT_DATA, MESSAGE_statfs, &o);
	ck_assert_int_eq(o.http_status, 429);
	answer_held(&lab);
	outcome_wait(&held, 4);
	ck_assert_uint_eq(held.good, 4);
	call_one(&lab, CLIENT_DATA, MESSAGE_statfs, &o);
	ck_assert_uint_eq(o.status, STATUS_NOENT);
	lab_finish(&lab);
}
END_TEST

#define RESERVED_EACH 64 /* RESERVE_COUNT_EACH of transport/server_internal.h */

START_TEST(a_connection_has_a_bounded_share_of_the_reserve)
{
	struct lab lab;
	struct outcome held;
	struct outcome o;
	struct message m = of_type(MESSAGE_keepalive, 0);

	lab_init(&lab, true, 1);
	outcome_init(&held);
	/* One more than its share: that is one of the others, and takes all their room. */
	for (unsigned i = 0; i < RESERVED_EACH + 1; i++)
		call_on(&lab, CLIENT_CONTROL, &m, nothing, 60000, &held);
	wait_held(&lab, RESERVED_EACH + 1);
	call_one(&lab, CLIENT_CONTROL, MESSAGE_statfs, &o);
	ck_assert_int_eq(o.http_status, 429);
	answer_held(&lab);
	outcome_wait(&held, RESERVED_EACH + 1);
	call_one(&lab, CLIENT_CONTROL, MESSAGE_statfs, &o);
	ck_assert_uint_eq(o.status, STATUS_NOENT);
	lab_finish(&lab);
}
END_TEST

START_TEST(draining_finishes_what_is_under_way)
{
	struct lab lab;
	struct outcome o;
	struct message m = of_type(MESSAGE_fsync, 1);
	struct server_counters counters;

	lab_init(&lab, true, 256);
	outcome_init(&o);
	call(&lab, &m, nothing, 60000, &o);
	wait_held(&lab, 1);
	server_drain(lab.server, duration_ms(50)); /* bounded */
	ck_assert_uint_eq(o.done, 0);
	answer_held(&lab);
	server_drain(lab.server, duration_ms(60000));
	outcome_wait(&o, 1);
	ck_assert_int_eq(o.error, 0);
	ck_assert_uint_eq(o.good, 1);
	server_counters(lab.server, &counters);
	ck_assert_uint_eq(counters.malformed, 0);
	lab_finish(&lab);
}
END_TEST

/* Raw libcurl, since client_call() would not send such things. */
static size_t drop(char *data, size_t size, size_t count, void *context)
{
	return count;
}

static long post(struct lab *lab, const char *path, size_t length, struct curl_slist *headers)
{
	CURL *easy = curl_easy_init();
	uint8_t *body = calloc(1, length + 1);
	char url[256];
	char authority[SCRATCH_PATH_BYTES + 16];
	long status = 0;

	(void)snprintf(url, sizeof(url), "%s%s", lab->url, path);
	(void)snprintf(authority, sizeof(authority), "%s/ca.pem", lab->host);
	curl_easy_setopt(easy, CURLOPT_URL, url);
	curl_easy_setopt(easy, CURLOPT_CAINFO, authority);
	curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_2TLS);
	curl_easy_setopt(easy, CURLOPT_NOPROXY, "*");
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body);
	curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, (long)length);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, drop);
	(void)curl_easy_perform(easy); /* the status is what the test looks at */
	curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
	curl_easy_cleanup(easy);
	free(body);
	return status;
}

START_TEST(what_is_too_large_is_refused)
{
	struct lab lab;
	struct curl_slist *headers =
		curl_slist_append(NULL, "content-type: application/x-leasehold");
	struct server_counters counters;
	char large[20000] = "x: ";

	lab_init(&lab, true, 256);
	ck_assert_int_eq(post(&lab, "/v1/rpc", 100, headers), 400);
	ck_assert_int_eq(post(&lab, "/v1/rpc", 3 << 20, headers), 413);
	memset(large + 3, 'a', sizeof(large) - 4);
	headers = curl_slist_append(headers, large);
	ck_assert_int_eq(post(&lab, "/v1/rpc", 100, headers), 431);
	server_counters(lab.server, &counters);
	ck_assert_uint_eq(counters.refused, 2);
	ck_assert_uint_eq(counters.malformed, 1);
	curl_slist_free_all(headers);
	lab_finish(&lab);
}
END_TEST

static TCase *transport_case(void)
{
	TCase *tcase = tcase_create("transport");

	tcase_set_timeout(tcase, 240);
	tcase_add_test(tcase, thousands_of_small_calls_are_answered);
	tcase_add_test(tcase, small_calls_work_without_tls_on_loopback);
	tcase_add_test(tcase, bulk_arrives_whole_both_ways);
	tcase_add_test(tcase, bulk_arrives_whole_without_tls);
	tcase_add_test(tcase, a_call_is_cancelled_in_flight);
	tcase_add_test(tcase, uploads_that_are_cancelled_let_the_next_ones_go);
	tcase_add_test(tcase, thousands_of_cancels_do_not_cost_the_connection);
	tcase_add_test(tcase, a_deadline_ends_a_call);
	tcase_add_test(tcase, calls_end_when_the_server_is_destroyed);
	tcase_add_test(tcase, a_request_leaves_the_host_at_most_once);
	tcase_add_test(tcase, calls_end_when_the_client_is_destroyed);
	tcase_add_test(tcase, a_stream_of_messages_keeps_order_and_reconnects);
	tcase_add_test(tcase, the_peer_has_the_name_in_its_certificate);
	tcase_add_test(tcase, a_host_of_another_origin_is_refused);
	tcase_add_test(tcase, requests_beyond_the_bound_are_pushed_back);
	tcase_add_test(tcase, control_messages_have_room_when_requests_are_at_their_bound);
	tcase_add_test(tcase, a_connection_has_a_bounded_share_of_the_reserve);
	tcase_add_test(tcase, what_is_too_large_is_refused);
	tcase_add_test(tcase, draining_finishes_what_is_under_way);
	return tcase;
}

UNIT_MAIN("transport", transport_case)
