#include "transport/client.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "transport/error.h"
#include "transport/frame.h"
#include "transport/tls.h"

#define LANES_MAX 17u          /* the control lane, and at most 16 data connections */
#define LANE_ACTIVE_MAX 100u   /* streams on one connection; libcurl looks at each on every event */
#define CLEAR_CONNECTIONS 8u    /* of a lane without TLS, which has one for each call */
#define POOL_MAX 128u          /* calls kept with their easy handles for reuse */
#define HEAD_INLINE_BYTES 640u /* a request with one name fits */
#define PATH_BYTES_MAX 128u
#define WAITING_TICK_MS 20     /* how late the deadline of a call without a stream may be seen */
#define RECEIVE_BYTES (256L << 10)
#define SEND_BYTES (256L << 10)
#define EVENTS_MAX 32
#define SOCKETS_MAX 64u /* of a lane, that we look at again: lane_settle() */
#define SETTLE_ROUNDS_MAX 64u
#define SETTLE_MS_MIN 1   /* after a socket was ready */
#define SETTLE_MS_MAX 512 /* doubled each time that nothing moved; then not again */
#define NUDGE_TIMEOUT_MS 5000L
/* Bytes that a peer does not acknowledge for so long mean that it is gone. */
#define UNACKNOWLEDGED_MS_MAX 10000
#define KEEPALIVE_IDLE_S 10L
#define KEEPALIVE_INTERVAL_S 5L

enum call_state {
	CALL_QUEUED,  /* in client->submitted */
	CALL_WAITING, /* in its lane's queue */
	CALL_ACTIVE,  /* libcurl has it */
	CALL_ENDED,
};

struct client_stream {
	struct client_call *call;
};

struct client_call {
	struct client_call *next; /* of the list that its state names, or of the pool */
	struct client_call *previous;
	struct client *client;
	struct lane *lane;
	CURL *easy;
	enum call_state state;
	enum client_channel channel;
	struct instant deadline; /* UINT64_MAX: none */

	struct client_call *cancel_next; /* client->cancels, under the lock */
	bool cancel_queued;

	char path[PATH_BYTES_MAX];
	char easy_path[PATH_BYTES_MAX]; /* what the easy handle's URL was made of */
	uint8_t *head;                  /* head_inline or memory of its own */
	size_t head_length;
	struct slice bulk;
	size_t sent;

	bool begun; /* the answer's headers are here */
	bool is_message;
	long http_status;
	uint8_t *body;
	size_t body_length;
	size_t body_capacity;

	client_done *done;
	void *context;

	bool is_stream;
	struct client_stream stream;
	void (*received)(void *context, struct slice message);
	void (*ended)(void *context, int error, int http_status, const char *text);
	struct frame_reader reader;
	int reader_error;

	char detail[CURL_ERROR_SIZE];
	uint8_t head_inline[HEAD_INLINE_BYTES];
};

struct call_list {
	struct client_call *first;
	struct client_call *last;
};

/* One connection (one CURLM): what goes through it never meets what goes through another. */
struct lane {
	struct client *client;
	uint32_t index;
	CURLM *multi;
	unsigned active_max;
	unsigned count; /* active and waiting */
	unsigned active_count;
	struct call_list active;
	struct call_list waiting;
	unsigned begun_count;  /* of the active: answers that have begun and are not complete */
	curl_socket_t sockets[SOCKETS_MAX];
	unsigned socket_count;
	uint64_t progress; /* grows with every byte and every end of a call */
	struct instant settle; /* when to look again, UINT64_MAX: not */
	uint64_t settle_ms;
	CURL *nudge;           /* NULL until there was a reset to be sent */
	bool nudge_wanted;
	bool nudging;
	struct instant timer; /* when libcurl wants to be called; UINT64_MAX: not */
	int alert;            /* the fatal TLS alert that the origin sent, or 0 */
};

struct client {
	char *url;
	bool tls;
	char *certificate;
	char *key;
	char *authority;
	long connect_timeout_ms;
	unsigned call_count_max;
	struct curl_slist *headers;

	pthread_t thread;
	bool started;
	int epoll_fd;
	int wake_fd;
	struct lane lanes[LANES_MAX];
	unsigned lane_count;

	pthread_mutex_t lock; /* of what follows */
	struct call_list submitted;
	struct client_call *cancels;
	struct client_call *pool;
	unsigned pool_count;
	unsigned call_count;
	bool signalled;
	bool stopping;
	bool reconnecting;

	struct {
		_Atomic uint64_t calls, bytes_in, bytes_out, connections, failures, cancelled,
			timeouts;
	} counters;
};

static pthread_once_t library_once = PTHREAD_ONCE_INIT;
static CURLcode library_result;
static int alert_index; /* of OpenSSL's extra data: the lane of a context */

static void library_init(void)
{
	library_result = curl_global_init(CURL_GLOBAL_DEFAULT);
	alert_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, NULL);
}

static struct instant time_now(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_BOOTTIME, &now); /* cannot fail with this clock */
	return (struct instant){ (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec };
}

static void list_add(struct call_list *list, struct client_call *call)
{
	call->next = NULL;
	call->previous = list->last;
	if (list->last)
		list->last->next = call;
	else
		list->first = call;
	list->last = call;
}

static void list_remove(struct call_list *list, struct client_call *call)
{
	if (call->previous)
		call->previous->next = call->next;
	else
		list->first = call->next;
	if (call->next)
		call->next->previous = call->previous;
	else
		list->last = call->previous;
	call->next = call->previous = NULL;
}

/* ---- libcurl's callbacks; all on the client's thread ---- */

static bool begin_answer(struct client_call *call)
{
	const char *type = NULL;
	curl_off_t length = -1;

	call->begun = true;
	if (!call->is_stream)
		call->lane->begun_count++;
	curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &call->http_status);
	curl_easy_getinfo(call->easy, CURLINFO_CONTENT_TYPE, &type);
	curl_easy_getinfo(call->easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
	call->is_message = type && strcmp(type, FRAME_CONTENT_TYPE) == 0;
	if (call->is_stream || length <= 0)
		return true;
	if (length > (curl_off_t)FRAME_BODY_BYTES_MAX)
		return false;
	call->body = malloc((size_t)length);
	call->body_capacity = call->body ? (size_t)length : 0;
	return call->body != NULL;
}

static bool add_body(struct client_call *call, const char *data, size_t length)
{
	size_t wanted = call->body_length + length;
	size_t capacity = call->body_capacity ? call->body_capacity : 4096;
	uint8_t *body;

	if (wanted > FRAME_BODY_BYTES_MAX)
		return false;
	if (wanted > call->body_capacity) {
		while (capacity < wanted)
			capacity *= 2;
		body = realloc(call->body, capacity);
		if (!body)
			return false;
		call->body = body;
		call->body_capacity = capacity;
	}
	memcpy(call->body + call->body_length, data, length);
	call->body_length = wanted;
	return true;
}

/* Anything but `length` ends the transfer with CURLE_WRITE_ERROR. */
static size_t on_body(char *data, size_t size, size_t length, void *context)
{
	struct client_call *call = context;

	call->client->counters.bytes_in += length;
	call->lane->progress++;
	if (!call->begun && !begin_answer(call))
		return 0;
	if (!call->is_stream)
		return add_body(call, data, length) ? length : 0;
	if (call->http_status != 200 || !call->is_message)
		return length; /* an explanation for people; the status says enough */
	call->reader_error = frame_reader_feed(&call->reader, (const uint8_t *)data, length,
					       call->received, call->context);
	return call->reader_error ? 0 : length;
}

static size_t copy_part(char *to, size_t room, const uint8_t *from, size_t length, size_t at)
{
	size_t count = length - at < room ? length - at : room;

	memcpy(to, from + at, count);
	return count;
}

static size_t on_send(char *buffer, size_t size, size_t count, void *context)
{
	struct client_call *call = context;
	size_t room = size * count;
	size_t at = 0;

	if (call->sent < call->head_length)
		at = copy_part(buffer, room, call->head, call->head_length, call->sent);
	call->sent += at;
	if (at < room && call->sent >= call->head_length && call->bulk.length > 0) {
		size_t n = copy_part(buffer + at, room - at, call->bulk.data, call->bulk.length,
				     call->sent - call->head_length);

		call->sent += n;
		at += n;
	}
	return at;
}

/* libcurl sends a body again when the connection that it had chosen was gone. */
static int on_rewind(void *context, curl_off_t offset, int origin)
{
	struct client_call *call = context;

	if (origin != SEEK_SET || offset != 0)
		return CURL_SEEKFUNC_CANTSEEK;
	call->sent = 0;
	return CURL_SEEKFUNC_OK;
}

static int on_socket_made(void *context, curl_socket_t fd, curlsocktype purpose)
{
	const int limit = UNACKNOWLEDGED_MS_MAX;

	/* Without it the calls' own deadlines still hold. */
	(void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &limit, sizeof(limit));
	return CURL_SOCKOPT_OK;
}

/* With TLS 1.3 a client learns after its handshake that the server does not want it: by an alert. */
static void on_tls_event(const SSL *ssl, int where, int value)
{
	struct lane *lane = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), alert_index);

	if (lane && where == SSL_CB_READ_ALERT && value >> 8 == SSL3_AL_FATAL)
		lane->alert = value & 0xff;
}

static CURLcode on_tls_context(CURL *easy, void *ssl_context, void *context)
{
	struct lane *lane = context;

	lane->alert = 0;
	if (!SSL_CTX_set_ex_data(ssl_context, alert_index, lane))
		return CURLE_OUT_OF_MEMORY;
	SSL_CTX_set_info_callback(ssl_context, on_tls_event);
	return CURLE_OK;
}

static void forget_socket(struct lane *lane, curl_socket_t fd)
{
	for (unsigned i = 0; i < lane->socket_count; i++)
		if (lane->sockets[i] == fd)
			lane->sockets[i] = lane->sockets[--lane->socket_count];
}

static int on_socket_wanted(CURL *easy, curl_socket_t fd, int what, void *context, void *known)
{
	struct lane *lane = context;
	struct epoll_event event = { .data.u64 = (uint64_t)lane->index << 32 | (uint32_t)fd };

	if (what == CURL_POLL_REMOVE) {
		forget_socket(lane, fd);
		(void)epoll_ctl(lane->client->epoll_fd, EPOLL_CTL_DEL, fd, NULL); /* or closed */
		return 0;
	}
	if (what & CURL_POLL_IN)
		event.events |= EPOLLIN;
	if (what & CURL_POLL_OUT)
		event.events |= EPOLLOUT;
	if (known)
		return epoll_ctl(lane->client->epoll_fd, EPOLL_CTL_MOD, fd, &event) < 0 ? -1 : 0;
	curl_multi_assign(lane->multi, fd, lane);
	if (lane->socket_count < SOCKETS_MAX)
		lane->sockets[lane->socket_count++] = fd;
	if (epoll_ctl(lane->client->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 &&
	    (errno != EEXIST ||
	     epoll_ctl(lane->client->epoll_fd, EPOLL_CTL_MOD, fd, &event) < 0))
		return -1;
	return 0;
}

static int on_timer_wanted(CURLM *multi, long timeout_ms, void *context)
{
	struct lane *lane = context;

	lane->timer = timeout_ms < 0 ? (struct instant){ UINT64_MAX }
				     : instant_add(time_now(), duration_ms((uint64_t)timeout_ms));
	return 0;
}

/* ---- calls ---- */

/* What decides which connection a transfer uses and how that is made. */
static void set_connection_options(const struct client *c, CURL *easy)
{
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_NOPROXY, "*");
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, c->tls ? "https" : "http");
	curl_easy_setopt(easy, CURLOPT_HTTP_VERSION,
			 c->tls ? CURL_HTTP_VERSION_2TLS : CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE);
	curl_easy_setopt(easy, CURLOPT_PIPEWAIT, c->tls ? 1L : 0L);
	curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, c->connect_timeout_ms);
	curl_easy_setopt(easy, CURLOPT_TCP_NODELAY, 1L);
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPIDLE, KEEPALIVE_IDLE_S);
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S);
	curl_easy_setopt(easy, CURLOPT_SOCKOPTFUNCTION, on_socket_made);
	if (!c->tls) {
		/* libcurl 7.88 breaks a connection without TLS when it uses it for a second stream. */
		curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, 1L);
		curl_easy_setopt(easy, CURLOPT_FORBID_REUSE, 1L);
		return;
	}
	curl_easy_setopt(easy, CURLOPT_SSLVERSION, CURL_SSLVERSION_TLSv1_3);
	curl_easy_setopt(easy, CURLOPT_SSL_SESSIONID_CACHE, 0L);
	curl_easy_setopt(easy, CURLOPT_SSLCERT, c->certificate);
	curl_easy_setopt(easy, CURLOPT_SSLKEY, c->key);
	curl_easy_setopt(easy, CURLOPT_CAINFO, c->authority);
	curl_easy_setopt(easy, CURLOPT_CAPATH, NULL);
	curl_easy_setopt(easy, CURLOPT_SSL_CTX_FUNCTION, on_tls_context);
}

static void set_lasting_options(struct client_call *call)
{
	CURL *easy = call->easy;

	set_connection_options(call->client, easy);
	curl_easy_setopt(easy, CURLOPT_PRIVATE, call);
	curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, call->detail);
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, call->client->headers);
	curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, RECEIVE_BYTES);
	curl_easy_setopt(easy, CURLOPT_UPLOAD_BUFFERSIZE, SEND_BYTES);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, call);
	curl_easy_setopt(easy, CURLOPT_READFUNCTION, on_send);
	curl_easy_setopt(easy, CURLOPT_READDATA, call);
	curl_easy_setopt(easy, CURLOPT_SEEKFUNCTION, on_rewind);
	curl_easy_setopt(easy, CURLOPT_SEEKDATA, call);
}

static void call_free(struct client_call *call)
{
	curl_easy_cleanup(call->easy);
	free(call);
}

static struct client_call *call_make(struct client *c)
{
	struct client_call *call = calloc(1, sizeof(*call));

	if (!call)
		return NULL;
	call->client = c;
	call->stream.call = call;
	call->easy = curl_easy_init();
	if (!call->easy) {
		free(call);
		return NULL;
	}
	set_lasting_options(call);
	return call;
}

/* A call within the bound, from the pool or new. */
static int call_get(struct client *c, struct client_call **ret_call)
{
	struct client_call *call = NULL;
	int error = 0;

	pthread_mutex_lock(&c->lock);
	if (c->stopping)
		error = -ECANCELED;
	else if (c->call_count >= c->call_count_max)
		error = -EAGAIN;
	else {
		c->call_count++;
		call = c->pool;
		if (call) {
			c->pool = call->next;
			c->pool_count--;
		}
	}
	pthread_mutex_unlock(&c->lock);
	if (error)
		return error;
	if (!call)
		call = call_make(c);
	if (!call) {
		pthread_mutex_lock(&c->lock);
		c->call_count--;
		pthread_mutex_unlock(&c->lock);
		return -ENOMEM;
	}
	call->next = call->previous = NULL;
	*ret_call = call;
	return 0;
}

/* Back to the pool. Nobody may use `call` afterwards: a cancel that still waits is forgotten. */
static void call_put(struct client_call *call)
{
	struct client *c = call->client;
	struct client_call **at;
	bool pooled;

	if (call->head != call->head_inline)
		free(call->head);
	free(call->body);
	frame_reader_finish(&call->reader);
	call->head = call->body = NULL;
	call->body_length = call->body_capacity = call->sent = 0;
	call->begun = call->is_message = call->is_stream = false;
	call->http_status = 0;
	call->reader_error = 0;
	call->detail[0] = 0;
	call->bulk = (struct slice){ NULL, 0 };
	pthread_mutex_lock(&c->lock);
	if (call->cancel_queued) {
		for (at = &c->cancels; *at && *at != call; at = &(*at)->cancel_next)
			;
		if (*at)
			*at = call->cancel_next;
		call->cancel_queued = false;
	}
	c->call_count--;
	pooled = c->pool_count < POOL_MAX;
	if (pooled) {
		call->next = c->pool;
		c->pool = call;
		c->pool_count++;
	}
	pthread_mutex_unlock(&c->lock);
	if (!pooled)
		call_free(call);
}

static void client_wake(struct client *c)
{
	uint64_t one = 1;

	(void)!write(c->wake_fd, &one, sizeof(one)); /* full: it is awake already */
}

static int call_submit(struct client *c, struct client_call *call)
{
	bool wake;

	call->state = CALL_QUEUED;
	pthread_mutex_lock(&c->lock);
	if (c->stopping) {
		pthread_mutex_unlock(&c->lock);
		return -ECANCELED;
	}
	list_add(&c->submitted, call);
	wake = !c->signalled;
	c->signalled = true;
	pthread_mutex_unlock(&c->lock);
	if (wake)
		client_wake(c);
	return 0;
}

static int call_prepare(struct client_call *call, const char *path, const struct message *message)
{
	size_t length = strlen(path);

	if (length >= sizeof(call->path))
		return -EMSGSIZE;
	memcpy(call->path, path, length + 1);
	return frame_encode(message, call->head_inline, sizeof(call->head_inline), &call->head,
			    &call->head_length);
}

int client_call(struct client *c, enum client_channel channel, const char *path,
		const struct message *message, struct slice bulk, struct duration timeout,
		client_done *done, void *context, struct client_call **ret_call)
{
	struct client_call *call;
	int error;

	if (bulk.length > BULK_BYTES_MAX)
		return -EMSGSIZE;
	error = call_get(c, &call);
	if (error)
		return error;
	error = call_prepare(call, path, message);
	if (!error) {
		call->channel = channel;
		call->bulk = bulk;
		call->deadline = instant_add(time_now(), timeout);
		call->done = done;
		call->context = context;
		c->counters.calls++;
		/* Before it is submitted: `done` may come before we return. */
		if (ret_call)
			*ret_call = call;
		error = call_submit(c, call);
	}
	if (error)
		call_put(call);
	return error;
}

int client_stream(struct client *c, const char *path, const struct message *message,
		  void (*received)(void *context, struct slice message),
		  void (*ended)(void *context, int error, int http_status, const char *text),
		  void *context, struct client_stream **ret_stream)
{
	struct client_call *call;
	int error = call_get(c, &call);

	if (error)
		return error;
	error = call_prepare(call, path, message);
	if (!error) {
		call->channel = CLIENT_CONTROL;
		call->deadline = (struct instant){ UINT64_MAX };
		call->is_stream = true;
		call->received = received;
		call->ended = ended;
		call->context = context;
		*ret_stream = &call->stream;
		error = call_submit(c, call);
	}
	if (error)
		call_put(call);
	return error;
}

void client_cancel(struct client_call *call)
{
	struct client *c = call->client;
	bool wake = false;

	pthread_mutex_lock(&c->lock);
	if (!call->cancel_queued) {
		call->cancel_queued = true;
		call->cancel_next = c->cancels;
		c->cancels = call;
		wake = !c->signalled;
		c->signalled = true;
	}
	pthread_mutex_unlock(&c->lock);
	if (wake)
		client_wake(c);
}

void client_stream_close(struct client_stream *stream)
{
	client_cancel(stream->call);
}

/* ---- the thread ---- */

static void count_outcome(struct client *c, int error)
{
	if (error == 0)
		return;
	if (error == -ECANCELED)
		c->counters.cancelled++;
	else if (error == -ETIMEDOUT)
		c->counters.timeouts++;
	else
		c->counters.failures++;
}

static void tell_done(struct client_call *call, int error, const char *text)
{
	struct client_answer answer = { .error = error,
					.http_status = (int)call->http_status,
					.text = text };
	struct slice body = { call->body, call->body_length };

	if (error == 0 && call->is_message &&
	    frame_split(body, &answer.message, &answer.bulk) < 0) {
		answer.error = -EPROTO;
		answer.text = "the origin's answer is malformed; do the versions match?";
	} else if (error == 0 && !call->is_message) {
		answer.bulk = body;
	}
	call->done(call->context, &answer);
}

/* The end of every call that was submitted. It is in no list and not with libcurl. */
static void call_finish(struct client_call *call, int error)
{
	struct client *c = call->client;
	char text[CURL_ERROR_SIZE + 512];

	call->state = CALL_ENDED;
	count_outcome(c, error);
	transport_error_text(error, c->url, call->detail, text, sizeof(text));
	if (call->is_stream)
		call->ended(call->context, error, (int)call->http_status, text);
	else
		tell_done(call, error, text);
	call_put(call);
}

/* Takes the call from wherever it is. */
static void call_withdraw(struct client_call *call)
{
	struct lane *lane = call->lane;

	if (call->state == CALL_ACTIVE) {
		curl_multi_remove_handle(lane->multi, call->easy);
		list_remove(&lane->active, call);
		lane->active_count--;
		lane->progress++;
		if (call->begun && !call->is_stream)
			lane->begun_count--;
	} else {
		list_remove(&lane->waiting, call);
	}
	lane->count--;
}

/*
 * libcurl 7.88 puts the RST_STREAM of a transfer that was taken from it in its queue and sends it
 * with the next request only: until then the origin goes on with what nobody wants. So there is a
 * next request, of the cheapest kind.
 */
static void want_nudge(struct client_call *call)
{
	long sent = 0;

	curl_easy_getinfo(call->easy, CURLINFO_REQUEST_SIZE, &sent);
	if (sent > 0 && call->client->tls)
		call->lane->nudge_wanted = true;
}

static bool is_certificate_alert(int alert)
{
	switch (alert) {
	case SSL_AD_BAD_CERTIFICATE:
	case SSL_AD_UNSUPPORTED_CERTIFICATE:
	case SSL_AD_CERTIFICATE_REVOKED:
	case SSL_AD_CERTIFICATE_EXPIRED:
	case SSL_AD_CERTIFICATE_UNKNOWN:
	case SSL_AD_UNKNOWN_CA:
	case SSL_AD_ACCESS_DENIED:
	case SSL_AD_DECRYPT_ERROR:
	case SSL_AD_CERTIFICATE_REQUIRED:
		return true;
	default:
		return false;
	}
}

static int error_of_call(struct client_call *call, CURLcode code)
{
	long os_error = 0;
	int error;

	if (code == CURLE_OK)
		return 0;
	if (call->reader_error)
		return call->reader_error == -ENOMEM ? -ENOMEM : -EPROTO;
	curl_easy_getinfo(call->easy, CURLINFO_OS_ERRNO, &os_error);
	error = transport_error_of_curl(code, os_error);
	if (error == -ECONNRESET && is_certificate_alert(call->lane->alert))
		return -EKEYREJECTED;
	return error;
}

static void call_complete(struct client_call *call, CURLcode code)
{
	struct client *c = call->client;
	long connects = 0;
	int error = error_of_call(call, code);

	curl_easy_getinfo(call->easy, CURLINFO_NUM_CONNECTS, &connects);
	curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &call->http_status);
	c->counters.connections += (uint64_t)connects;
	if (error == 0) {
		if (!call->begun)
			(void)begin_answer(call); /* no body: only the status counts */
		if (call->is_stream && call->http_status == 200 &&
		    !frame_reader_idle(&call->reader))
			error = -ECONNRESET; /* cut within a message */
	}
	if (error == -ETIMEDOUT)
		want_nudge(call);
	call_withdraw(call);
	call_finish(call, error);
}

static void set_url(struct client_call *call)
{
	char url[1024];

	if (strcmp(call->path, call->easy_path) == 0)
		return;
	(void)snprintf(url, sizeof(url), "%s%s", call->client->url, call->path);
	if (curl_easy_setopt(call->easy, CURLOPT_URL, url) == CURLE_OK)
		memcpy(call->easy_path, call->path, sizeof(call->easy_path));
}

/* Hands the call to libcurl. */
static void call_start(struct lane *lane, struct client_call *call, struct instant now)
{
	struct client *c = lane->client;
	uint64_t left_ms = (instant_until(now, call->deadline).ns + NS_PER_MS - 1) / NS_PER_MS;
	long timeout = left_ms > INT32_MAX ? INT32_MAX : (long)left_ms;

	list_remove(&lane->waiting, call);
	list_add(&lane->active, call);
	lane->active_count++;
	call->state = CALL_ACTIVE;
	set_url(call);
	curl_easy_setopt(call->easy, CURLOPT_SSL_CTX_DATA, lane);
	curl_easy_setopt(call->easy, CURLOPT_TIMEOUT_MS, call->is_stream ? 0L : timeout);
	/* What is in one piece libcurl takes from where it is; else on_send() hands it over. */
	curl_easy_setopt(call->easy, CURLOPT_POST, 1L);
	curl_easy_setopt(call->easy, CURLOPT_POSTFIELDS, call->bulk.length ? NULL : call->head);
	curl_easy_setopt(call->easy, CURLOPT_POSTFIELDSIZE_LARGE,
			 (curl_off_t)(call->head_length + call->bulk.length));
	c->counters.bytes_out += call->head_length + call->bulk.length;
	if (curl_multi_add_handle(lane->multi, call->easy) != CURLM_OK) {
		call_withdraw(call);
		call_finish(call, -ENOMEM);
	}
}

static int lane_open(struct lane *lane)
{
	const struct client *c = lane->client;
	CURLM *multi = curl_multi_init();

	if (!multi)
		return -ENOMEM;
	curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket_wanted);
	curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, lane);
	curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timer_wanted);
	curl_multi_setopt(multi, CURLMOPT_TIMERDATA, lane);
	if (c->tls) {
		lane->active_max = LANE_ACTIVE_MAX;
		curl_multi_setopt(multi, CURLMOPT_MAX_HOST_CONNECTIONS, 1L);
		curl_multi_setopt(multi, CURLMOPT_MAX_CONCURRENT_STREAMS, (long)LANE_ACTIVE_MAX);
	} else {
		lane->active_max = CLEAR_CONNECTIONS;
		curl_multi_setopt(multi, CURLMOPT_PIPELINING, (long)CURLPIPE_NOTHING);
		curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, 4L * CLEAR_CONNECTIONS);
	}
	lane->multi = multi;
	lane->timer = lane->settle = (struct instant){ UINT64_MAX };
	lane->socket_count = 0;
	lane->nudging = lane->nudge_wanted = false;
	lane->alert = 0;
	return 0;
}

static struct lane *choose_lane(struct client *c, enum client_channel channel)
{
	struct lane *least = &c->lanes[0];

	if (channel == CLIENT_CONTROL)
		return least;
	least = &c->lanes[1];
	for (unsigned i = 2; i < c->lane_count; i++)
		if (c->lanes[i].count < least->count)
			least = &c->lanes[i];
	return least;
}

static void lane_end_all(struct lane *lane, int error)
{
	struct client_call *call;

	while ((call = lane->active.first ? lane->active.first : lane->waiting.first)) {
		call_withdraw(call);
		call_finish(call, error);
	}
}

/* New connections for everything: what is under way on the old ones is lost. */
static void reconnect(struct client *c)
{
	for (unsigned i = 0; i < c->lane_count; i++) {
		struct lane *lane = &c->lanes[i];
		CURLM *old = lane->multi;

		if (lane_open(lane) < 0)
			continue; /* out of memory: the old connections have to do */
		for (struct client_call *call = lane->active.first; call; call = call->next)
			curl_multi_remove_handle(old, call->easy);
		if (lane->nudge)
			curl_multi_remove_handle(old, lane->nudge);
		curl_multi_cleanup(old);
		lane_end_all(lane, -ECONNRESET);
	}
}

/* What other threads asked for. True when the client is to stop. */
static bool take_orders(struct client *c)
{
	struct client_call *submitted;
	struct client_call *cancelled;
	bool reconnecting;
	bool stopping;

	pthread_mutex_lock(&c->lock);
	submitted = c->submitted.first;
	c->submitted = (struct call_list){ NULL, NULL };
	c->signalled = false;
	reconnecting = c->reconnecting;
	c->reconnecting = false;
	stopping = c->stopping;
	pthread_mutex_unlock(&c->lock);
	if (reconnecting)
		reconnect(c);
	while (submitted) {
		struct client_call *call = submitted;

		submitted = call->next;
		call->lane = choose_lane(c, call->channel);
		call->lane->count++;
		call->state = CALL_WAITING;
		list_add(&call->lane->waiting, call);
	}
	for (;;) {
		pthread_mutex_lock(&c->lock);
		cancelled = c->cancels;
		/* One that was submitted after we looked comes next time, with its cancel. */
		if (cancelled && cancelled->state == CALL_QUEUED)
			cancelled = NULL;
		if (cancelled) {
			c->cancels = cancelled->cancel_next;
			cancelled->cancel_queued = false;
		}
		pthread_mutex_unlock(&c->lock);
		if (!cancelled)
			break;
		if (cancelled->state == CALL_ACTIVE)
			want_nudge(cancelled);
		call_withdraw(cancelled);
		call_finish(cancelled, -ECANCELED);
	}
	return stopping;
}

static void lane_admit(struct lane *lane, struct instant now)
{
	struct client_call *call;
	struct client_call *next;

	while (lane->active_count < lane->active_max && (call = lane->waiting.first))
		call_start(lane, call, now);
	for (call = lane->waiting.first; call; call = next) {
		next = call->next;
		if (instant_before(now, call->deadline))
			continue;
		call_withdraw(call);
		call_finish(call, -ETIMEDOUT);
	}
}

static size_t on_nudge_body(char *data, size_t size, size_t length, void *context)
{
	return length; /* nothing is in it that we want */
}

static void lane_nudge(struct lane *lane)
{
	const struct client *c = lane->client;
	char url[1024];

	if (!lane->nudge_wanted || lane->nudging)
		return;
	lane->nudge_wanted = false;
	if (!lane->nudge) {
		lane->nudge = curl_easy_init();
		if (!lane->nudge)
			return; /* the next request will do */
		set_connection_options(c, lane->nudge);
		(void)snprintf(url, sizeof(url), "%s/", c->url);
		curl_easy_setopt(lane->nudge, CURLOPT_URL, url);
		curl_easy_setopt(lane->nudge, CURLOPT_CUSTOMREQUEST, "OPTIONS");
		curl_easy_setopt(lane->nudge, CURLOPT_TIMEOUT_MS, NUDGE_TIMEOUT_MS);
		curl_easy_setopt(lane->nudge, CURLOPT_WRITEFUNCTION, on_nudge_body);
		curl_easy_setopt(lane->nudge, CURLOPT_SSL_CTX_DATA, lane);
		curl_easy_setopt(lane->nudge, CURLOPT_PRIVATE, NULL);
	}
	lane->nudging = curl_multi_add_handle(lane->multi, lane->nudge) == CURLM_OK;
}

/*
 * libcurl 7.88 reads for all streams of a connection at once, and in some cases keeps what belongs
 * to another transfer without asking to be called for it; the socket is silent then. So we call it
 * as if the socket were readable, as long as that moves anything.
 */
static void lane_settle(struct lane *lane)
{
	curl_socket_t sockets[SOCKETS_MAX];
	unsigned count;
	uint64_t before;
	int running;

	for (unsigned round = 0; round < SETTLE_ROUNDS_MAX; round++) {
		before = lane->progress;
		count = lane->socket_count;
		memcpy(sockets, lane->sockets, sizeof(sockets));
		for (unsigned i = 0; i < count; i++)
			(void)curl_multi_socket_action(lane->multi, sockets[i], CURL_CSELECT_IN,
						       &running);
		if (lane->progress == before)
			break;
		lane->settle_ms = SETTLE_MS_MIN;
	}
	/* The last round may have read what belongs to a transfer that had its turn before. */
	lane->settle = lane->active_count > 0 && lane->settle_ms <= SETTLE_MS_MAX
			       ? instant_add(time_now(), duration_ms(lane->settle_ms))
			       : (struct instant){ UINT64_MAX };
	lane->settle_ms *= 2;
}

/* Half an answer is the case to hurry for: it also holds up all others of the connection. */
static void lane_settle_due(struct lane *lane, struct instant now)
{
	bool half = lane->begun_count > 0 && lane->settle_ms == SETTLE_MS_MIN;

	if (lane->settle.ns != UINT64_MAX && (half || !instant_before(now, lane->settle)))
		lane_settle(lane);
}

static void lane_collect(struct lane *lane)
{
	struct client_call *call;
	CURLMsg *message;
	int left;

	while ((message = curl_multi_info_read(lane->multi, &left))) {
		CURLcode code = message->data.result;

		if (message->msg != CURLMSG_DONE)
			continue;
		if (message->easy_handle == lane->nudge) {
			curl_multi_remove_handle(lane->multi, lane->nudge);
			lane->nudging = false;
			continue;
		}
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&call);
		call_complete(call, code);
	}
}

static int wait_ms(const struct client *c, struct instant now)
{
	uint64_t least = UINT64_MAX;

	for (unsigned i = 0; i < c->lane_count; i++) {
		uint64_t ns = UINT64_MAX;

		if (c->lanes[i].timer.ns != UINT64_MAX)
			ns = instant_until(now, c->lanes[i].timer).ns;
		if (instant_before(c->lanes[i].settle, c->lanes[i].timer))
			ns = instant_until(now, c->lanes[i].settle).ns;
		if (c->lanes[i].waiting.first && ns > WAITING_TICK_MS * NS_PER_MS)
			ns = WAITING_TICK_MS * NS_PER_MS;
		if (ns != UINT64_MAX)
			least = ns < least ? ns : least;
	}
	if (least == UINT64_MAX)
		return -1;
	least = (least + NS_PER_MS - 1) / NS_PER_MS;
	return least > 60000 ? 60000 : (int)least;
}

static void handle_event(struct client *c, const struct epoll_event *event)
{
	uint32_t index = (uint32_t)(event->data.u64 >> 32);
	int running;
	int mask = 0;
	uint64_t count;

	if (index >= c->lane_count) {
		(void)!read(c->wake_fd, &count, sizeof(count));
		return;
	}
	if (event->events & (EPOLLIN | EPOLLHUP))
		mask |= CURL_CSELECT_IN;
	if (event->events & EPOLLOUT)
		mask |= CURL_CSELECT_OUT;
	if (event->events & EPOLLERR)
		mask |= CURL_CSELECT_ERR;
	/* Its result says that a lane is broken only when memory is: then calls time out. */
	(void)curl_multi_socket_action(c->lanes[index].multi, (int)(uint32_t)event->data.u64, mask,
				       &running);
	c->lanes[index].settle_ms = SETTLE_MS_MIN;
	c->lanes[index].settle = instant_add(time_now(), duration_ms(SETTLE_MS_MIN));
}

static void run_timers(struct client *c, struct instant now)
{
	int running;

	for (unsigned i = 0; i < c->lane_count; i++) {
		struct lane *lane = &c->lanes[i];

		if (lane->timer.ns == UINT64_MAX || instant_before(now, lane->timer))
			continue;
		lane->timer = (struct instant){ UINT64_MAX }; /* libcurl sets it anew */
		(void)curl_multi_socket_action(lane->multi, CURL_SOCKET_TIMEOUT, 0, &running);
	}
}

static void *run(void *context)
{
	struct client *c = context;
	struct epoll_event events[EVENTS_MAX];
	bool stopping = false;

	while (!stopping) {
		int count = epoll_wait(c->epoll_fd, events, EVENTS_MAX, wait_ms(c, time_now()));

		for (int i = 0; i < count; i++)
			handle_event(c, &events[i]);
		stopping = take_orders(c);
		for (unsigned i = 0; i < c->lane_count; i++)
			lane_admit(&c->lanes[i], time_now());
		run_timers(c, time_now());
		for (unsigned i = 0; i < c->lane_count; i++) {
			lane_settle_due(&c->lanes[i], time_now());
			lane_collect(&c->lanes[i]);
			lane_nudge(&c->lanes[i]);
		}
	}
	/* Nothing is accepted any more; once more for what was submitted just before. */
	(void)take_orders(c);
	for (unsigned i = 0; i < c->lane_count; i++)
		lane_end_all(&c->lanes[i], -ECANCELED);
	return NULL;
}

/* ---- making and ending it ---- */

static bool is_loopback(const char *host)
{
	return strcmp(host, "localhost") == 0 || strncmp(host, "127.", 4) == 0 ||
	       strcmp(host, "[::1]") == 0;
}

static int check_url(struct client *c, const char *url, char *text, size_t size)
{
	CURLU *parsed = curl_url();
	char *scheme = NULL;
	char *host = NULL;
	int error = 0;

	if (!parsed || curl_url_set(parsed, CURLUPART_URL, url, 0) != CURLUE_OK ||
	    curl_url_get(parsed, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK ||
	    curl_url_get(parsed, CURLUPART_HOST, &host, 0) != CURLUE_OK) {
		error = -EINVAL;
	} else {
		c->tls = strcmp(scheme, "https") == 0;
		if (!c->tls && strcmp(scheme, "http") != 0)
			error = -EINVAL;
		else if (!c->tls && !is_loopback(host))
			error = -EPERM;
	}
	if (error == -EINVAL)
		(void)snprintf(text, size, "%s is not the address of an origin: give "
			       "https://HOST:PORT", url);
	else if (error)
		(void)snprintf(text, size, "%s: without TLS only to this machine's loopback; use "
			       "https://", url);
	curl_free(scheme);
	curl_free(host);
	curl_url_cleanup(parsed);
	return error;
}

static int set_names(struct client *c, const struct client_config *config, char *text, size_t size)
{
	size_t length = strlen(config->url);

	while (length > 0 && config->url[length - 1] == '/')
		length--;
	c->url = strndup(config->url, length);
	c->headers = curl_slist_append(NULL, "content-type: " FRAME_CONTENT_TYPE);
	if (!c->url || !c->headers || !curl_slist_append(c->headers, "Expect:"))
		return -ENOMEM;
	if (!c->tls)
		return 0;
	if (!config->tls_directory || !tls_joined(config->tls_directory)) {
		(void)snprintf(text, size,
			       "this host has not joined the origin %s (no certificate in %s); run "
			       "`leasehold join` with the origin's token",
			       c->url, config->tls_directory ? config->tls_directory : "-");
		return -ENOKEY;
	}
	if (asprintf(&c->certificate, "%s/host.pem", config->tls_directory) < 0)
		c->certificate = NULL;
	if (asprintf(&c->key, "%s/host.key", config->tls_directory) < 0)
		c->key = NULL;
	if (asprintf(&c->authority, "%s/ca.pem", config->tls_directory) < 0)
		c->authority = NULL;
	return c->certificate && c->key && c->authority ? 0 : -ENOMEM;
}

static int open_lanes(struct client *c, unsigned data_connections)
{
	unsigned count = data_connections ? data_connections : 1;
	int error = 0;

	if (count > LANES_MAX - 1)
		count = LANES_MAX - 1;
	for (unsigned i = 0; i < count + 1 && !error; i++) {
		c->lanes[i].client = c;
		c->lanes[i].index = i;
		error = lane_open(&c->lanes[i]);
		if (!error)
			c->lane_count++;
	}
	return error;
}

static int start_thread(struct client *c)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = UINT64_MAX };
	sigset_t all;
	sigset_t saved;
	int error;

	c->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (c->epoll_fd < 0 || c->wake_fd < 0 ||
	    epoll_ctl(c->epoll_fd, EPOLL_CTL_ADD, c->wake_fd, &event) < 0)
		return -errno;
	/* Signals are the program's business; a broken pipe is then an error of write() alone. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	error = pthread_create(&c->thread, NULL, run, c);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	c->started = error == 0;
	return -error;
}

int client_create(const struct client_config *config, struct client **ret_client, char *ret_text,
		  size_t text_size)
{
	struct client *c = calloc(1, sizeof(*c));
	int error;

	(void)pthread_once(&library_once, library_init);
	(void)snprintf(ret_text, text_size, "cannot make a client for %s", config->url);
	if (!c || library_result != CURLE_OK || alert_index < 0) {
		free(c);
		return -ENOMEM;
	}
	c->epoll_fd = c->wake_fd = -1;
	c->call_count_max = config->call_count_max;
	c->connect_timeout_ms = (long)(config->connect_timeout.ns / NS_PER_MS);
	pthread_mutex_init(&c->lock, NULL);
	error = check_url(c, config->url, ret_text, text_size);
	if (!error)
		error = set_names(c, config, ret_text, text_size);
	if (!error)
		error = open_lanes(c, config->data_connections);
	if (!error)
		error = start_thread(c);
	if (error) {
		client_destroy(c);
		return error;
	}
	*ret_client = c;
	return 0;
}

void client_destroy(struct client *c)
{
	if (!c)
		return;
	if (c->started) {
		pthread_mutex_lock(&c->lock);
		c->stopping = true;
		pthread_mutex_unlock(&c->lock);
		client_wake(c);
		(void)pthread_join(c->thread, NULL); /* cannot fail: it is ours, and joined once */
	}
	while (c->pool) {
		struct client_call *call = c->pool;

		c->pool = call->next;
		call_free(call);
	}
	for (unsigned i = 0; i < c->lane_count; i++) {
		if (c->lanes[i].nudging)
			curl_multi_remove_handle(c->lanes[i].multi, c->lanes[i].nudge);
		curl_easy_cleanup(c->lanes[i].nudge);
		curl_multi_cleanup(c->lanes[i].multi);
	}
	if (c->epoll_fd >= 0)
		close(c->epoll_fd);
	if (c->wake_fd >= 0)
		close(c->wake_fd);
	curl_slist_free_all(c->headers);
	free(c->url);
	free(c->certificate);
	free(c->key);
	free(c->authority);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

void client_reconnect(struct client *c)
{
	pthread_mutex_lock(&c->lock);
	c->reconnecting = true;
	pthread_mutex_unlock(&c->lock);
	client_wake(c);
}

void client_counters(const struct client *c, struct client_counters *ret_counters)
{
	*ret_counters = (struct client_counters){
		.calls = c->counters.calls,
		.bytes_in = c->counters.bytes_in,
		.bytes_out = c->counters.bytes_out,
		.connections = c->counters.connections,
		.failures = c->counters.failures,
		.cancelled = c->counters.cancelled,
		.timeouts = c->counters.timeouts,
	};
}
