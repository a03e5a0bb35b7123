/* One connection: socket, TLS, nghttp2 session. Everything here runs on its loop's thread. */
#include <errno.h>
#include <netinet/tcp.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "transport/server_internal.h"
#include "transport/tls.h"

#define FRAME_HEADER_BYTES 9u /* RFC 9113 4.1 */
/* The largest frame that nghttp2 makes in its own memory; always left free behind DATA of ours. */
#define FRAME_ROOM_BYTES   (FRAME_HEADER_BYTES + 16384u + 256u)

/* ---- bytes out: nghttp2 -> loop->plain -> TLS -> loop->wire -> socket, or c->pending ---- */

static void append_wire(struct loop *l, const void *data, size_t length)
{
	if (length > l->wire_capacity - l->wire_length) {
		size_t capacity = l->wire_length + length + PLAIN_BYTES;
		uint8_t *wire = realloc(l->wire, capacity);

		if (!wire) {
			l->wire_failed = true;
			return;
		}
		l->wire = wire;
		l->wire_capacity = capacity;
	}
	memcpy(l->wire + l->wire_length, data, length);
	l->wire_length += length;
}

/*
 * OpenSSL's writing end: it makes a record of 16 KiB at a time, and a system call for each would
 * cost as much as the encryption. All records of a turn leave in one send().
 */
static int wire_write(BIO *bio, const char *data, int length)
{
	struct connection *c = BIO_get_data(bio);

	append_wire(c->loop, data, (size_t)length);
	return length;
}

static long wire_control(BIO *bio, int command, long number, void *pointer)
{
	return command == BIO_CTRL_FLUSH ? 1 : 0;
}

static int wire_create(BIO *bio)
{
	BIO_set_init(bio, 1);
	return 1;
}

static BIO_METHOD *make_bio_method(void)
{
	BIO_METHOD *method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "wire");

	if (method && BIO_meth_set_write(method, wire_write) &&
	    BIO_meth_set_ctrl(method, wire_control) && BIO_meth_set_create(method, wire_create))
		return method;
	BIO_meth_free(method);
	return NULL;
}

static void watch(struct connection *c, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = c };

	if (c->events == events)
		return;
	if (epoll_ctl(c->loop->epoll_fd, EPOLL_CTL_MOD, c->fd, &event) < 0)
		c->dead = true;
	c->events = events;
}

static ssize_t send_bytes(struct connection *c, const uint8_t *data, size_t length)
{
	ssize_t n;

	do
		n = send(c->fd, data, length, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return 0;
	if (n < 0) {
		c->dead = true;
		return -1;
	}
	c->last_write = c->loop->now;
	c->sent_bytes += (size_t)n;
	return n;
}

/* Sends what an earlier turn left. True when nothing of it is left. */
static bool send_pending(struct connection *c)
{
	ssize_t n;

	if (c->pending_length == 0)
		return true;
	n = send_bytes(c, c->pending + c->pending_at, c->pending_length);
	if (n < 0)
		return false;
	c->pending_at += (size_t)n;
	c->pending_length -= (size_t)n;
	if (c->pending_length > 0)
		return false;
	free(c->pending);
	c->pending = NULL;
	c->pending_at = 0;
	return true;
}

static void keep_pending(struct connection *c, const uint8_t *data, size_t length)
{
	uint8_t *pending;

	if (c->pending_at > 0 && c->pending_length > 0)
		memmove(c->pending, c->pending + c->pending_at, c->pending_length);
	c->pending_at = 0;
	pending = realloc(c->pending, c->pending_length + length);
	if (!pending) {
		c->dead = true;
		return;
	}
	memcpy(pending + c->pending_length, data, length);
	c->pending = pending;
	c->pending_length += length;
}

/* What this connection put on the loop's wire goes to the socket, the rest to c->pending. */
static void send_wire(struct connection *c)
{
	struct loop *l = c->loop;
	size_t length = l->wire_length;
	ssize_t sent = 0;

	l->wire_length = 0;
	if (l->wire_failed)
		c->dead = true;
	l->wire_failed = false;
	if (length == 0 || c->dead)
		return;
	c->loop->server->counters.bytes_out += length;
	if (c->pending_length == 0)
		sent = send_bytes(c, l->wire, length);
	if (sent >= 0 && (size_t)sent < length)
		keep_pending(c, l->wire + sent, length - (size_t)sent);
}

/* nghttp2 hands over a DATA frame whose content we copy from the answer itself. */
static int on_send_data(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *head,
			size_t length, nghttp2_data_source *source, void *context)
{
	struct connection *c = context;
	struct loop *l = c->loop;
	const size_t head_length = FRAME_HEADER_BYTES;

	if (PLAIN_BYTES - l->plain_length < head_length + length + FRAME_ROOM_BYTES) {
		l->plain_full = true;
		return NGHTTP2_ERR_WOULDBLOCK;
	}
	memcpy(l->plain + l->plain_length, head, head_length);
	request_copy_answer(source->ptr, l->plain + l->plain_length + head_length, length);
	l->plain_length += head_length + length;
	return 0;
}

/* Fills loop->plain with what nghttp2 has to say. False: nothing. */
static bool make_plain(struct connection *c)
{
	struct loop *l = c->loop;

	l->plain_length = 0;
	l->plain_full = false;
	while (!l->plain_full && PLAIN_BYTES - l->plain_length >= FRAME_ROOM_BYTES) {
		const uint8_t *data;
		ssize_t n = nghttp2_session_mem_send(c->session, &data);

		if (n < 0 || (size_t)n > PLAIN_BYTES - l->plain_length) {
			c->dead = true;
			return false;
		}
		/* DATA frames of answers went by on_send_data() before what was returned. */
		if (n == 0)
			break;
		memcpy(l->plain + l->plain_length, data, (size_t)n);
		l->plain_length += (size_t)n;
	}
	return l->plain_length > 0;
}

static void send_plain(struct connection *c)
{
	struct loop *l = c->loop;
	size_t at = 0;

	if (!c->ssl)
		append_wire(l, l->plain, l->plain_length);
	while (c->ssl && at < l->plain_length) {
		/* Our BIO takes all, so that this ends or fails. */
		int n = SSL_write(c->ssl, l->plain + at, (int)(l->plain_length - at));

		if (n <= 0) {
			ERR_clear_error();
			c->dead = true;
			return;
		}
		at += (size_t)n;
	}
	send_wire(c);
}

static void drain_connection(struct connection *c)
{
	if (!c->loop->server->draining || c->handshaking)
		return;
	if (!c->goaway_sent) {
		/* The client makes no new streams here; those under way are finished. */
		(void)nghttp2_submit_shutdown_notice(c->session);
		c->goaway_sent = true;
		for (struct server_request *r = c->requests; r; r = r->next)
			if (r->stream)
				server_stream_end(r->stream);
	}
}

void connection_flush(struct connection *c)
{
	size_t turn = 0;
	bool blocked;

	link_look(c);
	blocked = !send_pending(c);
	if (c->handshaking || c->dead) {
		if (!c->dead)
			watch(c, EPOLLIN | (blocked ? (uint32_t)EPOLLOUT : 0));
		return;
	}
	drain_connection(c);
	while (!c->dead && !blocked && turn < TURN_BYTES_MAX && make_plain(c)) {
		turn += c->loop->plain_length;
		send_plain(c);
		blocked = c->pending_length > 0;
	}
	if (c->dead)
		return;
	if (!blocked && turn < TURN_BYTES_MAX &&
	    ((!nghttp2_session_want_read(c->session) && !nghttp2_session_want_write(c->session)) ||
	     (c->goaway_sent && !c->requests))) {
		c->dead = true;
		return;
	}
	/* A peer that asks and never listens is not read from while its answers wait. */
	watch(c, (nghttp2_session_get_outbound_queue_size(c->session) > OUTBOUND_FRAMES_MAX
			  ? 0
			  : (uint32_t)EPOLLIN) |
			 (blocked || turn >= TURN_BYTES_MAX ? (uint32_t)EPOLLOUT : 0));
}

/* ---- bytes in: socket -> TLS -> nghttp2 ---- */

/* Bytes, 0 for "not now", or -1 for the end. */
static ssize_t read_bytes(struct connection *c)
{
	struct loop *l = c->loop;
	ssize_t n;

	if (!c->ssl) {
		n = recv(c->fd, l->input, READ_BYTES, 0);
		if (n > 0)
			return n;
		return n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
	}
	n = SSL_read(c->ssl, l->input, READ_BYTES);
	if (l->wire_length > 0)
		send_wire(c); /* an alert, or the answer to a key update */
	if (n > 0)
		return n;
	if (SSL_get_error(c->ssl, (int)n) == SSL_ERROR_WANT_READ)
		return 0;
	ERR_clear_error();
	return -1;
}

static void read_all(struct connection *c)
{
	struct server *s = c->loop->server;
	size_t turn = 0;
	ssize_t n;

	/* What OpenSSL has read ahead does not make the socket readable: go on until it is used. */
	do {
		n = read_bytes(c);
		if (n <= 0)
			break;
		turn += (size_t)n;
		if (nghttp2_session_mem_recv(c->session, c->loop->input, (size_t)n) < 0)
			n = -1;
	} while (n > 0 && !c->dead &&
		 (turn < TURN_BYTES_MAX || (c->ssl && SSL_has_pending(c->ssl))));
	s->counters.bytes_in += turn;
	if (n < 0)
		c->dead = true;
}

static int start_http(struct connection *c)
{
	struct server *s = c->loop->server;
	const nghttp2_settings_entry settings[] = {
		{ NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, CONCURRENT_STREAMS_MAX },
		{ NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, STREAM_WINDOW_BYTES },
		{ NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, HEADER_BYTES_MAX },
#ifdef EXTENSIBLE_PRIORITIES
		{ NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1 },
#endif
	};

	if (nghttp2_session_server_new2(&c->session, s->callbacks, c, s->option) != 0)
		return -ENOMEM;
	if (nghttp2_submit_settings(c->session, NGHTTP2_FLAG_NONE, settings,
				    sizeof(settings) / sizeof(settings[0])) != 0 ||
	    nghttp2_session_set_local_window_size(c->session, NGHTTP2_FLAG_NONE, 0,
						  CONNECTION_WINDOW_BYTES) != 0)
		return -ENOMEM;
	return 0;
}

static void shake_hands(struct connection *c)
{
	int result = SSL_do_handshake(c->ssl);
	int reason = result == 1 ? 0 : SSL_get_error(c->ssl, result);

	send_wire(c);
	if (reason == SSL_ERROR_WANT_READ)
		return;
	if (reason) {
		c->loop->server->counters.tls_failures++;
		ERR_clear_error();
		/* Closed now, with the peer's bytes unread, the kernel would send a reset that
		   overtakes the alert which tells the peer why. The handshake's deadline holds. */
		c->lingering = true;
		if (shutdown(c->fd, SHUT_WR) < 0)
			c->dead = true;
		return;
	}
	c->handshaking = false;
	c->has_name = tls_peer_name(c->ssl, c->name, sizeof(c->name));
	if (start_http(c) < 0)
		c->dead = true;
}

static void discard_input(struct connection *c)
{
	ssize_t n = recv(c->fd, c->loop->input, READ_BYTES, 0);

	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		c->dead = true;
}

void connection_ready(struct connection *c, uint32_t events)
{
	if (c->dead)
		return;
	loop_mark_dirty(c->loop, c);
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
		if (c->lingering)
			discard_input(c);
		else if (c->handshaking)
			shake_hands(c);
		if (!c->handshaking && !c->dead)
			read_all(c);
	}
}

void connection_tick(struct connection *c)
{
	struct instant now = c->loop->now;
	uint64_t quiet = instant_until(c->last_frame, now).ns;

	if (!c->preface_seen) {
		if (instant_until(c->accepted, now).ns > HANDSHAKE_TIMEOUT_MS * NS_PER_MS)
			c->dead = true;
	} else if (!c->requests && quiet > IDLE_TIMEOUT_MS * NS_PER_MS) {
		c->dead = true;
	}
	if (c->pending_length > 0 &&
	    instant_until(c->last_write, now).ns > STALL_TIMEOUT_MS * NS_PER_MS)
		c->dead = true;
	for (struct server_request *r = c->requests; r && !c->dead; r = r->next) {
		bool moving = r->state == REQUEST_RECEIVING || r->state == REQUEST_ANSWERING;

		if (moving && instant_until(r->progress, now).ns > STALL_TIMEOUT_MS * NS_PER_MS)
			(void)nghttp2_submit_rst_stream(c->session, NGHTTP2_FLAG_NONE, r->stream_id,
							NGHTTP2_CANCEL);
	}
	if (c->dead || (c->session && nghttp2_session_want_write(c->session)) ||
	    c->loop->server->draining)
		loop_mark_dirty(c->loop, c);
}

/* ---- nghttp2's events ---- */

static struct server_request *request_of(nghttp2_session *session, int32_t stream_id)
{
	return nghttp2_session_get_stream_user_data(session, stream_id);
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *context)
{
	struct connection *c = context;
	struct server_request *r;

	if (frame->headers.cat != NGHTTP2_HCAT_REQUEST)
		return 0;
	r = request_create(c, frame->hd.stream_id);
	if (!r)
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE; /* the stream is reset */
	if (nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, r) != 0) {
		request_closed(r);
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	}
	return 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
		     size_t name_length, const uint8_t *value, size_t value_length, uint8_t flags,
		     void *context)
{
	struct server_request *r = request_of(session, frame->hd.stream_id);

	if (!r || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
		return 0;
	(void)request_add_header(r, name, name_length, value, value_length);
	return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t stream_id, const uint8_t *data,
		   size_t length, void *context)
{
	struct server_request *r = request_of(session, stream_id);

	if (r)
		request_add_body(r, data, length);
	return 0;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *context)
{
	struct connection *c = context;
	struct server_request *r;

	c->preface_seen = true;
	c->last_frame = c->loop->now;
	if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA)
		return 0;
	r = request_of(session, frame->hd.stream_id);
	if (!r)
		return 0;
	if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST)
		request_headers_done(r);
	if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) {
		r->peer_ended = true;
		request_done(r);
	}
	return 0;
}

static int on_close(nghttp2_session *session, int32_t stream_id, uint32_t code, void *context)
{
	struct server_request *r = request_of(session, stream_id);

	if (r)
		request_closed(r);
	return 0;
}

int connection_library_init(struct server *s)
{
	nghttp2_session_callbacks *callbacks;

	s->bio_method = make_bio_method();
	if (!s->bio_method || nghttp2_session_callbacks_new(&s->callbacks) != 0 ||
	    nghttp2_option_new(&s->option) != 0)
		return -ENOMEM;
	callbacks = s->callbacks;
	nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
	nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
	nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
	nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
	nghttp2_session_callbacks_set_send_data_callback(callbacks, on_send_data);
	nghttp2_option_set_no_closed_streams(s->option, 1);
#ifdef HAVE_NGHTTP2_STREAM_RESET_RATE_LIMIT
	/* Hosts cancel reads in earnest: a reset costs us no more than the request did, which the
	   bound on requests counts until its handler has let go of it. */
	nghttp2_option_set_stream_reset_rate_limit(s->option, 20000, 5000);
#endif
	return 0;
}

/* ---- its life ---- */

static int start_tls(struct connection *c)
{
	BIO *in = BIO_new_socket(c->fd, BIO_NOCLOSE);
	BIO *out = BIO_new(c->loop->server->bio_method);

	c->ssl = SSL_new(c->loop->server->tls);
	if (!in || !out || !c->ssl) {
		BIO_free(in);
		BIO_free(out);
		return -ENOMEM;
	}
	BIO_set_data(out, c);
	SSL_set_bio(c->ssl, in, out);
	SSL_set_accept_state(c->ssl);
	return 0;
}

struct connection *connection_create(struct server *s, struct loop *l, int fd)
{
	struct connection *c = calloc(1, sizeof(*c));
	const int one = 1;

	if (!c) {
		close(fd);
		return NULL;
	}
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* slower without */
	/* Without it the idle deadline helps. */
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	c->fd = fd;
	c->loop = l;
	c->post.run = connection_run;
	c->handshaking = s->tls != NULL;
	c->accepted = c->last_frame = c->last_write = clock_now();
	l->connection_count++;
	s->connection_count++;
	s->counters.connections++;
	return c;
}

/* On its own loop at last. */
void connection_run(struct loop_post *post)
{
	struct connection *c =
		(struct connection *)((char *)post - offsetof(struct connection, post));
	struct loop *l = c->loop;
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = c };

	c->next = l->connections;
	if (c->next)
		c->next->previous = c;
	l->connections = c;
	c->events = EPOLLIN;
	if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, c->fd, &event) < 0 ||
	    (c->handshaking ? start_tls(c) : start_http(c)) < 0)
		c->dead = true;
	loop_mark_dirty(l, c);
}

void connection_destroy(struct connection *c)
{
	struct loop *l = c->loop;
	struct server *s = l->server;

	while (c->requests)
		request_closed(c->requests);
	nghttp2_session_del(c->session);
	if (c->ssl) {
		l->wire_length = 0;
		if (!c->handshaking && c->pending_length == 0 && SSL_shutdown(c->ssl) >= 0)
			/* Says goodbye; whether it arrives is no matter. */
			(void)!send(c->fd, l->wire, l->wire_length, MSG_NOSIGNAL | MSG_DONTWAIT);
		l->wire_length = 0;
		ERR_clear_error();
		SSL_free(c->ssl);
	}
	close(c->fd);
	free(c->pending);
	if (c->previous)
		c->previous->next = c->next;
	else if (l->connections == c)
		l->connections = c->next;
	if (c->next)
		c->next->previous = c->previous;
	free(c);
	l->connection_count--;
	s->connection_count--;
	server_drain_changed(s);
}
