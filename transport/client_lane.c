/* What the client's thread does with libcurl: callbacks, transfers, and the detours it needs. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "transport/client_internal.h"
#include "transport/client_wire.h"
#include "transport/compress.h"
#include "transport/error.h"

static int alert_index; /* of OpenSSL's extra data: the lane of a context */

int lane_library_init(void)
{
	alert_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, NULL);
	return alert_index < 0 ? -ENOMEM : wire_library_init();
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
	if (call->body_capacity >= (size_t)length)
		return true;
	free(call->body);
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

/* A line of the answer's headers; a new status line begins them anew. */
static size_t on_header(char *line, size_t size, size_t length, void *context)
{
	static const char name[] = "content-encoding:";
	struct client_call *call = context;
	const char *at = line + sizeof(name) - 1, *end = line + length;

	if (length < sizeof(name) || strncasecmp(line, name, sizeof(name) - 1) != 0)
		return length;
	while (at < end && (*at == ' ' || *at == '\t'))
		at++;
	while (at < end && (end[-1] == '\r' || end[-1] == '\n' || end[-1] == ' '))
		end--;
	call->compressed = (size_t)(end - at) == strlen(COMPRESS_NAME) &&
			   strncasecmp(at, COMPRESS_NAME, strlen(COMPRESS_NAME)) == 0;
	call->bad_encoding = !call->compressed;
	return length;
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

/* What follows it may leave now. */
static void upload_end(struct client_call *call)
{
	call->lane->uploads -= call->uploads;
	call->uploads = false;
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
	if (call->sent == call->head_length + call->bulk.length)
		upload_end(call);
	return at;
}

/*
 * Called right before a request is written to a connection. libcurl repeats a request by itself
 * when a connection that was used before breaks without a byte of an answer; but the origin may
 * have got it, and done it. So the second time the transfer ends (error_of_call).
 */
static int on_offer(void *context, char *peer, char *local, int peer_port, int local_port)
{
	struct client_call *call = context;

	call->repeated = call->offered;
	call->offered = true;
	return call->repeated ? CURL_PREREQFUNC_ABORT : CURL_PREREQFUNC_OK;
}

static int on_socket_made(void *context, curl_socket_t fd, curlsocktype purpose)
{
	const int limit = UNACKNOWLEDGED_MS_MAX;

	/* Without it the calls' own deadlines still hold. */
	(void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &limit, sizeof(limit));
	return wire_opened(context, fd) ? CURL_SOCKOPT_OK : CURL_SOCKOPT_ERROR;
}

static int on_socket_end(void *context, curl_socket_t fd)
{
	wire_closed(context, fd);
	return close(fd) < 0 ? 1 : 0;
}

/* With TLS 1.3 a client learns after its handshake, by an alert, that it is not wanted. */
static void on_tls_event(const SSL *ssl, int where, int value)
{
	struct lane *lane = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), alert_index);

	if (lane && where == SSL_CB_READ_ALERT && value >> 8 == SSL3_AL_FATAL)
		lane->alert = value & 0xff;
	if (lane && where == SSL_CB_HANDSHAKE_DONE)
		wire_begin(lane, (SSL *)ssl); /* it is ours as much as libcurl's */
}

static CURLcode on_tls_context(CURL *easy, void *ssl_context, void *context)
{
	struct lane *lane = context;

	lane->alert = 0;
	if (!SSL_CTX_set_ex_data(ssl_context, alert_index, lane))
		return CURLE_OUT_OF_MEMORY;
	SSL_CTX_set_info_callback(ssl_context, on_tls_event);
	wire_prepare(ssl_context);
	return CURLE_OK;
}

static int on_socket_wanted(CURL *easy, curl_socket_t fd, int what, void *context, void *known)
{
	uint32_t events = 0;

	if (what & CURL_POLL_IN)
		events |= EPOLLIN;
	if (what & CURL_POLL_OUT)
		events |= EPOLLOUT;
	if (what == CURL_POLL_REMOVE)
		events = 0;
	return wire_want(context, fd, events, what == CURL_POLL_REMOVE) ? 0 : -1;
}

static int on_timer_wanted(CURLM *multi, long timeout_ms, void *context)
{
	struct lane *lane = context;

	lane->timer = timeout_ms < 0 ? (struct instant){ UINT64_MAX }
				     : instant_add(client_now(), duration_ms((uint64_t)timeout_ms));
	return 0;
}

/* ---- transfers ---- */

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
	curl_easy_setopt(easy, CURLOPT_CLOSESOCKETFUNCTION, on_socket_end);
	if (!c->tls) {
		/* libcurl 7.88 breaks a connection without TLS at its second stream. */
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

void call_set_options(struct client_call *call)
{
	CURL *easy = call->easy;

	set_connection_options(call->client, easy);
	curl_easy_setopt(easy, CURLOPT_PRIVATE, call);
	curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, call->detail);
	curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, RECEIVE_BYTES);
	curl_easy_setopt(easy, CURLOPT_UPLOAD_BUFFERSIZE, SEND_BYTES);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, call);
	curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(easy, CURLOPT_HEADERDATA, call);
	curl_easy_setopt(easy, CURLOPT_READFUNCTION, on_send);
	curl_easy_setopt(easy, CURLOPT_READDATA, call);
	curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, on_offer);
	curl_easy_setopt(easy, CURLOPT_PREREQDATA, call);
}

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

/* The answer as it was before it was compressed. 0, -EPROTO, -ENOMEM. */
static int expand_body(struct client_call *call)
{
	struct slice body = { call->body, call->body_length };
	uint8_t *data;
	size_t length;
	int error;

	if (call->bad_encoding)
		return -EPROTO;
	if (!call->compressed || call->body_length == 0)
		return 0;
	error = decompress_body(body, FRAME_BODY_BYTES_MAX, &data, &length);
	if (error)
		return error == -ENOMEM ? error : -EPROTO;
	free(call->body);
	call->body = data;
	call->body_length = call->body_capacity = length;
	return 0;
}

static void tell_done(struct client_call *call, int error, const char *text)
{
	struct client_answer answer = { .error = error,
					.unsent = error != 0 && !call->offered,
					.http_status = (int)call->http_status,
					.text = text };
	struct slice body;

	if (error == 0) {
		answer.error = error = expand_body(call);
		if (error)
			answer.text = "the origin's answer cannot be decompressed; is it damaged?";
	}
	body = (struct slice){ call->body, call->body_length };
	if (error == 0 && call->is_message &&
	    frame_split(body, &answer.message, &answer.bulk) < 0) {
		answer.error = -EPROTO;
		answer.text = "the origin's answer is malformed; do the versions match?";
	} else if (error == 0 && !call->is_message) {
		answer.bulk = body;
	}
	call->done(call->context, &answer);
}

void call_finish(struct client_call *call, int error)
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
		upload_end(call);
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

void call_abort(struct client_call *call, int error)
{
	if (call->state == CALL_ACTIVE)
		want_nudge(call);
	call_withdraw(call);
	call_finish(call, error);
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
	if (call->repeated)
		return -ECONNRESET;
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

static void set_lane(CURL *easy, struct lane *lane)
{
	curl_easy_setopt(easy, CURLOPT_SSL_CTX_DATA, lane);
	curl_easy_setopt(easy, CURLOPT_SOCKOPTDATA, lane);
	curl_easy_setopt(easy, CURLOPT_CLOSESOCKETDATA, lane);
}

static bool is_upload(const struct client_call *call)
{
	return call->client->tls && call->bulk.length >= UPLOAD_BYTES_MIN;
}

/* The next of those that wait, or NULL: none may start now. */
static struct client_call *next_waiting(const struct lane *lane)
{
	struct client_call *call = lane->waiting.first;

	if (lane->active_count >= lane->active_max)
		return NULL;
	while (call && lane->uploads >= UPLOADS_MAX && is_upload(call))
		call = call->next;
	return call;
}

/* Hands the call to libcurl. */
static void call_start(struct lane *lane, struct client_call *call, struct instant now)
{
	struct client *c = lane->client;
	uint64_t left_ms = (instant_until(now, call->deadline).ns + NS_PER_MS - 1) / NS_PER_MS;
	long timeout = left_ms > INT32_MAX ? INT32_MAX : left_ms ? (long)left_ms : 1;

	list_remove(&lane->waiting, call);
	list_add(&lane->active, call);
	lane->active_count++;
	call->state = CALL_ACTIVE;
	call->uploads = is_upload(call);
	lane->uploads += call->uploads;
	set_url(call);
	curl_easy_setopt(call->easy, CURLOPT_HTTPHEADER, c->headers[call->channel]);
	set_lane(call->easy, lane);
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

int lane_open(struct lane *lane)
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
	lane->nudging = lane->nudge_wanted = false;
	lane->alert = 0;
	return 0;
}

void lane_end_all(struct lane *lane, int error)
{
	struct client_call *call;

	while ((call = lane->active.first ? lane->active.first : lane->waiting.first)) {
		call_withdraw(call);
		call_finish(call, error);
	}
}

void lane_reconnect(struct lane *lane)
{
	CURLM *old = lane->multi;

	if (lane_open(lane) < 0)
		return; /* out of memory: the old connections have to do */
	for (struct client_call *call = lane->active.first; call; call = call->next)
		curl_multi_remove_handle(old, call->easy);
	if (lane->nudge)
		curl_multi_remove_handle(old, lane->nudge);
	curl_multi_cleanup(old);
	lane_end_all(lane, -ECONNRESET);
}

void lane_close(struct lane *lane)
{
	if (lane->nudge)
		curl_multi_remove_handle(lane->multi, lane->nudge);
	curl_easy_cleanup(lane->nudge);
	curl_multi_cleanup(lane->multi);
}

static void lane_admit(struct lane *lane, struct instant now)
{
	struct client_call *call;
	struct client_call *next;

	for (call = lane->waiting.first; call; call = next) {
		next = call->next;
		if (instant_before(now, call->deadline))
			continue;
		call_withdraw(call);
		call_finish(call, -ETIMEDOUT);
	}
	while ((call = next_waiting(lane)))
		call_start(lane, call, now);
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
		set_lane(lane->nudge, lane);
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
		count = 0;
		for (unsigned i = 0; i < lane->socket_count; i++)
			if (lane->sockets[i].wants)
				sockets[count++] = lane->sockets[i].fd;
		for (unsigned i = 0; i < count; i++)
			(void)curl_multi_socket_action(lane->multi, sockets[i], CURL_CSELECT_IN,
						       &running);
		if (lane->progress == before)
			break;
		lane->settle_ms = SETTLE_MS_MIN;
	}
	/* The last round may have read what belongs to a transfer that had its turn before. */
	lane->settle = lane->active_count > 0 && lane->settle_ms <= SETTLE_MS_MAX
			       ? instant_add(client_now(), duration_ms(lane->settle_ms))
			       : (struct instant){ UINT64_MAX };
	lane->settle_ms *= 2;
}

/* Half an answer is the case to hurry for: it also holds up all others of the connection. */
static void lane_settle_due(struct lane *lane, struct instant now)
{
	bool half = (lane->begun_count > 0 || wire_unread(lane)) && lane->settle_ms == SETTLE_MS_MIN;

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

void lane_socket_ready(struct lane *lane, curl_socket_t fd, uint32_t events)
{
	uint64_t before;
	int running;
	int mask = 0;

	if (events & EPOLLOUT)
		wire_writable(lane, fd);
	if (events & (EPOLLIN | EPOLLHUP))
		mask |= CURL_CSELECT_IN;
	if (events & EPOLLOUT)
		mask |= CURL_CSELECT_OUT;
	if (events & EPOLLERR)
		mask |= CURL_CSELECT_ERR;
	/* Its result says that a lane is broken only when memory is: then calls time out. */
	do {
		before = lane->progress;
		(void)curl_multi_socket_action(lane->multi, fd, mask, &running);
		mask = CURL_CSELECT_IN;
	} while (lane->progress != before && wire_unread(lane));
	lane->settle_ms = SETTLE_MS_MIN;
	lane->settle = instant_add(client_now(), duration_ms(SETTLE_MS_MIN));
}

void lane_run(struct lane *lane)
{
	struct instant now = client_now();
	int running;

	lane_admit(lane, now);
	if (lane->timer.ns != UINT64_MAX && !instant_before(now, lane->timer)) {
		lane->timer = (struct instant){ UINT64_MAX }; /* libcurl sets it anew */
		(void)curl_multi_socket_action(lane->multi, CURL_SOCKET_TIMEOUT, 0, &running);
	}
	lane_settle_due(lane, now);
	lane_collect(lane);
	lane_nudge(lane);
	wire_flush(lane);
}

struct instant lane_due(const struct lane *lane, struct instant now)
{
	struct instant due = lane->timer;
	struct instant tick = instant_add(now, duration_ms(WAITING_TICK_MS));

	if (instant_before(lane->settle, due))
		due = lane->settle;
	/* The deadlines of those that libcurl does not have yet are ours to watch. */
	if (next_waiting(lane))
		due = now;
	else if (lane->waiting.first && instant_before(tick, due))
		due = tick;
	return due;
}
