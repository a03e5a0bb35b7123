#include "transport/client_wire.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define SEND_AT_BYTES	  (128u << 10) /* then it is sent without waiting for the turn's end */
#define HELD_BYTES_MAX	  (256u << 10) /* behind a full socket; then OpenSSL, and so libcurl, waits */
#define READ_BUFFER_BYTES (128u << 10)

/* One TLS connection. It is the data of a filter BIO above libcurl's own. */
struct wire {
	struct wire *next;
	struct lane *lane;
	SSL *ssl;
	curl_socket_t fd;
	uint8_t *held;
	size_t at;
	size_t length; /* from `at` on */
	bool failed;  /* the socket is broken: libcurl's BIO is to find out how */
	bool drained; /* OpenSSL asked for more, and there was nothing */
};

static BIO_METHOD *method;

/* ---- the sockets ---- */

static struct lane_socket *find(struct lane *lane, curl_socket_t fd)
{
	for (unsigned i = 0; i < lane->socket_count; i++)
		if (lane->sockets[i].fd == fd)
			return &lane->sockets[i];
	return NULL;
}

static struct wire *wire_of(const struct lane *lane, curl_socket_t fd)
{
	struct wire *w = lane->wires;

	while (w && w->fd != fd)
		w = w->next;
	return w;
}

static struct lane_socket *find_or_add(struct lane *lane, curl_socket_t fd)
{
	struct lane_socket *s = find(lane, fd);

	if (s || lane->socket_count == SOCKETS_MAX)
		return s;
	s = &lane->sockets[lane->socket_count++];
	*s = (struct lane_socket){ .fd = fd };
	return s;
}

static void forget(struct lane *lane, struct lane_socket *s)
{
	*s = lane->sockets[--lane->socket_count];
}

/* Has epoll watch what is wanted and needed. */
static bool watch(struct lane *lane, struct lane_socket *s)
{
	const struct wire *w = wire_of(lane, s->fd);
	bool holds = w && w->length > 0 && !w->failed;
	uint32_t events = s->wanted | (holds ? (uint32_t)EPOLLOUT : 0);
	struct epoll_event event = { .events = events,
				     .data.u64 = (uint64_t)lane->index << 32 | (uint32_t)s->fd };
	int epoll_fd = lane->client->epoll_fd;
	bool watched = s->wants || holds;

	if (watched == s->watched && (!watched || events == s->events))
		return true;
	s->events = events;
	if (!watched) {
		s->watched = false;
		(void)epoll_ctl(epoll_fd, EPOLL_CTL_DEL, s->fd, NULL); /* or closed */
		return true;
	}
	/* A number that was closed and is used again may or may not be known to the kernel. */
	if (epoll_ctl(epoll_fd, s->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, s->fd, &event) < 0 &&
	    ((errno != EEXIST && errno != ENOENT) ||
	     epoll_ctl(epoll_fd, errno == EEXIST ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, s->fd, &event) <
		     0))
		return false;
	s->watched = true;
	return true;
}

bool wire_opened(struct lane *lane, curl_socket_t fd)
{
	struct lane_socket *s = find_or_add(lane, fd);

	if (!s)
		return false;
	*s = (struct lane_socket){ .fd = fd, .opened = true };
	return true;
}

void wire_closed(struct lane *lane, curl_socket_t fd)
{
	struct lane_socket *s = find(lane, fd);
	struct wire *w = wire_of(lane, fd);

	if (w)
		w->fd = -1;
	if (!s)
		return;
	if (s->watched)
		(void)epoll_ctl(lane->client->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
	forget(lane, s);
}

bool wire_want(struct lane *lane, curl_socket_t fd, uint32_t events, bool gone)
{
	struct lane_socket *s = gone ? find(lane, fd) : find_or_add(lane, fd);

	if (!s)
		return gone;
	s->wants = !gone;
	s->wanted = gone ? 0 : events;
	if (!watch(lane, s))
		return false;
	/* One of libcurl's own, or there never was word of its end. */
	if (gone && !s->opened)
		forget(lane, s);
	return true;
}

/* ---- bytes out ---- */

static void send_held(struct wire *w)
{
	while (w->length > 0 && !w->failed) {
		ssize_t n = send(w->fd, w->held + w->at, w->length, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0) {
			w->failed = true;
			return;
		}
		w->at += (size_t)n;
		w->length -= (size_t)n;
	}
	if (w->length == 0)
		w->at = 0;
}

/* Room for `length` more, within HELD_BYTES_MAX. Twice that is allocated, so that bytes are moved
   once for as many that are added. */
static bool make_room(struct wire *w, size_t length)
{
	if (!w->held)
		w->held = malloc(2 * (size_t)HELD_BYTES_MAX);
	if (!w->held)
		return false;
	if (w->at + w->length + length > 2 * (size_t)HELD_BYTES_MAX) {
		memmove(w->held, w->held + w->at, w->length);
		w->at = 0;
	}
	return true;
}

/* OpenSSL's writing end. All or nothing. */
static int on_write(BIO *bio, const char *data, int length)
{
	struct wire *w = BIO_get_data(bio);
	size_t count = (size_t)length;

	BIO_clear_retry_flags(bio);
	if (length <= 0)
		return 0;
	if (w->length + count > SEND_AT_BYTES)
		send_held(w);
	if (w->failed) {
		/* libcurl wants to know why. */
		int n = BIO_write(BIO_next(bio), data, length);

		BIO_copy_next_retry(bio);
		return n;
	}
	if (w->length + count > HELD_BYTES_MAX || !make_room(w, count)) {
		BIO_set_retry_write(bio);
		return -1;
	}
	memcpy(w->held + w->at + w->length, data, count);
	w->length += count;
	return length;
}

static int on_read(BIO *bio, char *data, int length)
{
	struct wire *w = BIO_get_data(bio);
	int n = BIO_read(BIO_next(bio), data, length);

	BIO_clear_retry_flags(bio);
	BIO_copy_next_retry(bio);
	w->drained = n <= 0;
	return n;
}

static long on_control(BIO *bio, int command, long number, void *pointer)
{
	struct wire *w = BIO_get_data(bio);

	if (command == BIO_CTRL_FLUSH) {
		send_held(w);
		return 1; /* the rest leaves when it can */
	}
	if (command == BIO_CTRL_WPENDING)
		return (long)w->length;
	return BIO_next(bio) ? BIO_ctrl(BIO_next(bio), command, number, pointer) : 0;
}

static int on_destroy(BIO *bio)
{
	struct wire *w = BIO_get_data(bio);
	struct wire **at;

	if (!w)
		return 1;
	if (w->fd >= 0)
		send_held(w); /* a farewell; whether it arrives is no matter */
	for (at = &w->lane->wires; *at != w; at = &(*at)->next)
		;
	*at = w->next;
	BIO_set_data(bio, NULL);
	free(w->held);
	free(w);
	return 1;
}

int wire_library_init(void)
{
	method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_FILTER, "lane");
	if (!method || !BIO_meth_set_write(method, on_write) ||
	    !BIO_meth_set_read(method, on_read) || !BIO_meth_set_ctrl(method, on_control) ||
	    !BIO_meth_set_destroy(method, on_destroy))
		return -ENOMEM;
	return 0;
}

/* ---- a connection's ---- */

void wire_prepare(SSL_CTX *context)
{
	SSL_CTX_set_read_ahead(context, 1);
	SSL_CTX_set_default_read_buffer_len(context, READ_BUFFER_BYTES);
}

/* The only socket that is open, or -1: a lane has one connection, and another while that one ends. */
static curl_socket_t only_socket(const struct lane *lane)
{
	curl_socket_t fd = -1;

	for (unsigned i = 0; i < lane->socket_count; i++) {
		if (!lane->sockets[i].opened)
			continue;
		if (fd >= 0)
			return -1;
		fd = lane->sockets[i].fd;
	}
	return fd;
}

void wire_begin(struct lane *lane, SSL *ssl)
{
	curl_socket_t fd = only_socket(lane);
	BIO *below = SSL_get_rbio(ssl);
	struct wire *w;
	BIO *bio;

	/* Told again after tickets and key updates. */
	if (fd < 0 || wire_of(lane, fd) || !below || below != SSL_get_wbio(ssl))
		return;
	w = calloc(1, sizeof(*w));
	bio = w ? BIO_new(method) : NULL;
	if (!bio) {
		free(w);
		return;
	}
	*w = (struct wire){ .next = lane->wires, .lane = lane, .ssl = ssl, .fd = fd };
	lane->wires = w;
	BIO_set_data(bio, w);
	BIO_set_init(bio, 1);
	(void)BIO_up_ref(below); /* the SSL gives its own up */
	(void)BIO_push(bio, below);
	(void)BIO_up_ref(bio); /* for reading and for writing */
	SSL_set0_rbio(ssl, bio);
	SSL_set0_wbio(ssl, bio);
}

static void flush(struct lane *lane, struct wire *w)
{
	struct lane_socket *s = find(lane, w->fd);

	send_held(w);
	if (s && !watch(lane, s))
		w->failed = true; /* out of memory: nothing would ever send the rest */
}

void wire_flush(struct lane *lane)
{
	for (struct wire *w = lane->wires; w; w = w->next)
		if (w->length > 0 && w->fd >= 0)
			flush(lane, w);
}

void wire_writable(struct lane *lane, curl_socket_t fd)
{
	struct wire *w = wire_of(lane, fd);

	if (w && w->length > 0)
		flush(lane, w);
}

bool wire_unread(const struct lane *lane)
{
	for (const struct wire *w = lane->wires; w; w = w->next)
		if (!w->drained && SSL_has_pending(w->ssl))
			return true;
	return false;
}
