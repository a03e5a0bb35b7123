/*
 * server_internal.h - what the server's own files share: server, loop, connection, request, stream.
 *
 * Who touches what: a loop and its connections belong to the loop's thread. Other threads reach
 * them only through loop_post(), whose queue is made of nodes that lie inside requests and streams:
 * it is as bounded as they are, and posting cannot fail for lack of memory. Requests and streams
 * outlive their connection (then `connection` is NULL) and, when somebody still holds them, their
 * server: each holds a reference to it.
 *
 * One lock in a loop (its queue) and one in a stream (its backlog); neither is held while anything
 * is called, and never both.
 */
#ifndef TRANSPORT_SERVER_INTERNAL_H
#define TRANSPORT_SERVER_INTERNAL_H

#include <nghttp2/nghttp2.h>
#include <pthread.h>
#include <stdatomic.h>

#include "transport/frame.h"
#include "transport/server.h"
#include "transport/squeeze.h"
#include "transport/tls_certificate.h"

/* A peer that has not finished TLS and HTTP/2's preface by then is not one. */
#define HANDSHAKE_TIMEOUT_MS	10000u
/* No stream open and no frame: longer than libcurl keeps an idle connection (118 s). */
#define IDLE_TIMEOUT_MS		300000u
/* A request whose next bytes do not come, or an answer that the peer does not take. */
#define STALL_TIMEOUT_MS	60000u
#define TICK_MS			1000u

/*
 * RFC 9218: answers leave in the order of their urgency, of one urgency one after the other. Eight
 * answers that share a connection evenly are all complete at the same time, and until then whoever
 * reads in order has nothing; nor is anything on its way when he asks for the next.
 */
#if NGHTTP2_VERSION_NUM >= 0x013200
#define EXTENSIBLE_PRIORITIES 1
#endif
#define SMALL_ANSWER_BYTES (32u << 10) /* goes ahead of data, whatever was asked for */
#define SMALL_ANSWER_URGENCY 1u

#define CONCURRENT_STREAMS_MAX	256u
/* Room for urgent requests, apart from the bound on the others: in all, and of a connection. */
#define RESERVE_COUNT_MAX	4096u
#define RESERVE_COUNT_EACH	64u
#define RESERVE_BODY_BYTES_MAX	(FRAME_HEAD_BYTES + MESSAGE_BYTES_MAX) /* a message, no data */
#define STREAM_WINDOW_BYTES	(16 << 20)
#define CONNECTION_WINDOW_BYTES (64 << 20)
#define HEADER_BYTES_MAX	(16u << 10) /* names and values of one request */
#define PATH_BYTES_MAX		(8u << 10)
#define BACKLOG_BYTES_MAX	(1u << 20) /* of a stream of messages */
#define OUTBOUND_FRAMES_MAX	4096u	   /* waiting behind a full socket; then we stop reading */

#define PLAIN_BYTES		(128u << 10) /* HTTP/2 bytes made at a time */
#define READ_BYTES		(64u << 10)
#define TURN_BYTES_MAX		(2u << 20) /* per connection before others have their turn */
#define SPARE_BODIES_MAX	8u	   /* kept by a loop: a fresh MiB costs 256 page faults */
#define LARGE_BODY_BYTES	(64u << 10)
/* A body that goes on after it was refused is dropped for so long; then the stream is reset. */
#define DROPPED_BYTES_MAX	(8u << 20)
#define REPLY_INLINE_BYTES	640u /* a reply with two nodes fits */

struct loop;
struct connection;

struct loop_post {
	struct loop_post *next;
	void (*run)(struct loop_post *post);
};

struct loop {
	struct server *server;
	pthread_t thread;
	bool started;
	int epoll_fd;
	int wake_fd;

	struct connection *connections;
	struct connection *dirty; /* to be flushed, or freed, before the next wait */
	struct instant now;	  /* read once a turn */
	struct instant last_tick;
	bool drain_begun;
	bool posted_to_self;		   /* there are posts, and nobody wakes us for them */
	_Atomic unsigned connection_count; /* also counts those that are being handed over */

	uint8_t *plain; /* PLAIN_BYTES of HTTP/2, on their way to TLS or the wire */
	size_t plain_length;
	bool plain_full;
	uint8_t *wire; /* bytes for the socket; grows to what PLAIN_BYTES become, at most */
	size_t wire_length;
	size_t wire_capacity;
	bool wire_failed;
	uint8_t *input;			  /* READ_BYTES */
	uint8_t *spare[SPARE_BODIES_MAX]; /* FRAME_BODY_BYTES_MAX each */
	unsigned spare_count;

	pthread_mutex_t lock; /* of what follows */
	struct loop_post *posts;
	struct loop_post **posts_end;
	bool signalled;
	bool stopping;
	bool stopped; /* nothing runs posts any more */
};

struct server {
	SSL_CTX *tls;
	server_handler *handler;
	void *context;
	unsigned connection_count_max;
	unsigned request_count_max;
	int listen_fd; /* watched by the first loop */
	uint16_t port;
	nghttp2_session_callbacks *callbacks;
	nghttp2_option *option;
	BIO_METHOD *bio_method;

	struct loop *loops;
	unsigned loop_count;

	_Atomic unsigned references; /* the owner's, and one for each request and stream */
	_Atomic unsigned request_count;  /* but those in the reserve */
	_Atomic unsigned reserved_count; /* of RESERVE_COUNT_MAX */
	_Atomic unsigned connection_count;
	atomic_bool draining;
	pthread_mutex_t drain_lock;
	pthread_cond_t drain_changed; /* a connection went; CLOCK_MONOTONIC */
	pthread_mutex_t squeeze_lock; /* a leaf */
	struct squeeze squeeze;

	struct {
		_Atomic uint64_t connections, requests, responses, bytes_in, bytes_out, refused,
			cancelled, streams, malformed, tls_failures, compressed_in, compressed_out;
	} counters;
};

struct connection {
	struct connection *next;
	struct connection *previous;
	struct connection *dirty_next;
	struct loop *loop;
	struct loop_post post; /* to be handed to its loop */
	int fd;
	uint32_t events; /* that epoll watches */
	SSL *ssl;
	nghttp2_session *session;
	bool is_dirty;
	bool dead; /* to be freed at the end of the turn */
	bool handshaking;
	bool lingering; /* refused: we said so, and wait for the peer to hang up */
	bool preface_seen;
	bool goaway_sent;
	bool has_name;
	char name[TLS_NAME_BYTES_MAX + 1];
	uint8_t *pending; /* bytes for the wire that the socket did not take */
	size_t pending_at;
	size_t pending_length;
	struct server_request *requests;
	unsigned reserved_count; /* of them; of RESERVE_COUNT_EACH */
	struct instant accepted;
	struct instant last_frame;
	struct instant last_write; /* when the socket last took bytes */
	/* server_link.c: */
	uint64_t sent_bytes;
	bool busy; /* the kernel has had bytes to send all the time since then: */
	struct instant busy_since;
	uint64_t busy_from; /* how many had left */
	uint64_t link_rate; /* bytes per second, at the last measurement; 0: none yet */
	struct instant link_measured;
};

enum request_state {
	REQUEST_RECEIVING, /* the loop's: its body is not complete */
	REQUEST_HANDLED,   /* the handler's, until it answers */
	REQUEST_ANSWERING, /* the loop's: an answer is on its way */
	REQUEST_STREAMING, /* the loop's: a stream of messages */
};

struct server_request {
	struct loop_post post;
	struct server_request *next; /* of the connection */
	struct server_request *previous;
	struct loop *loop;
	struct connection *connection; /* NULL when it is gone; the loop's thread only */
	int32_t stream_id;
	enum request_state state; /* the loop's thread only */
	atomic_bool cancelled;
	bool counted;	 /* in request_count */
	bool reserved;	 /* in reserved_count instead */
	bool urgent;	 /* its priority says so */
	bool peer_ended; /* END_STREAM came */
	int refusal;	 /* HTTP status decided before the body was complete, or 0 */
	bool is_message; /* by its content type */
	bool accepts_zstd;
	bool compressed;    /* the answer is */
	uint64_t link_rate; /* of its connection when it came */
	uint64_t group;	    /* server_request_set_group() */
	bool has_name;
	bool tls;
	char name[TLS_NAME_BYTES_MAX + 1];
	char method[12];
	char *path;
	char *range;
	size_t header_bytes;
	int64_t content_length; /* -1: not said */
	uint8_t *body;
	size_t body_length;
	size_t body_capacity;
	size_t dropped;
	struct instant arrived;
	struct instant progress; /* when bytes last moved */

	int http_status;
	char content_type[64];
	char *header_name; /* one extra header, cut in two */
	char *header_value;
	uint8_t *head; /* reply_inline or memory of its own */
	size_t head_length;
	struct server_bulk bulk;
	size_t sent; /* of head and bulk */
	struct server_stream *stream;
	uint8_t reply_inline[REPLY_INLINE_BYTES];
};

struct server_stream {
	struct loop_post post;
	struct server *server;
	struct loop *loop;
	struct server_request *request; /* NULL when ended; the loop's thread only */
	server_ended *ended;
	void *context;
	_Atomic unsigned references; /* the user's, and the loop's until it has ended */

	pthread_mutex_t lock; /* of what follows */
	uint8_t *backlog;
	size_t backlog_at;
	size_t backlog_length;
	size_t backlog_capacity;
	bool posted;
	bool ending;   /* after the backlog */
	bool aborting; /* at once: the peer does not keep up */
	bool is_ended;
};

/* ---- server.c ---- */

void server_ref(struct server *s);
void server_unref(struct server *s);
/* A connection or a request is gone: server_drain() may be waiting for it. */
void server_drain_changed(struct server *s);
struct instant clock_now(void);

/* ---- server_loop.c ---- */

int loop_init(struct loop *l, struct server *s) MUST_CHECK;
int loop_start(struct loop *l) MUST_CHECK;
/* Runs on the loop's thread soon. False when the loop has stopped: the caller disposes. */
bool loop_post(struct loop *l, struct loop_post *post);
void loop_wake(struct loop *l);
/* Ends the thread: connections are closed, requests in the handler's hands are cut loose. */
void loop_stop(struct loop *l);
void loop_finish(struct loop *l);
/* To be flushed before the loop waits again. */
void loop_mark_dirty(struct loop *l, struct connection *c);

/* ---- server_connection.c ---- */

int connection_library_init(struct server *s) MUST_CHECK;
/* Takes `fd`. NULL: out of memory, and `fd` is closed. */
struct connection *connection_create(struct server *s, struct loop *l, int fd);
void connection_run(struct loop_post *post);
void connection_ready(struct connection *c, uint32_t events);
/* Sends what is to be sent; sets c->dead when nothing can be any more. */
void connection_flush(struct connection *c);
void connection_tick(struct connection *c);
void connection_destroy(struct connection *c);

/* ---- server_link.c ---- */

/* Before anything is sent in a turn. */
void link_look(struct connection *c);
/* Bytes per second that the link takes; 0: not known, since lately it took all that there was. */
uint64_t link_rate(const struct connection *c);

/* ---- server_compress.c ---- */

/* Does the value of an accept-encoding header name zstd, and not with q=0? */
bool accepts_zstd(const uint8_t *value, size_t length);
/* Compresses the answer, which is complete, if its peer takes that and it pays. Any thread. */
void request_compress(struct server_request *r);

/* ---- server_request.c ---- */

void bulk_release(struct server_bulk *bulk);
struct server_request *request_create(struct connection *c, int32_t stream_id);
/* False: beyond the bounds; request->refusal says how. */
bool request_add_header(struct server_request *r, const uint8_t *name, size_t name_length,
			const uint8_t *value, size_t value_length);
void request_headers_done(struct server_request *r);
void request_add_body(struct server_request *r, const uint8_t *data, size_t length);
/* The request is complete: to the handler with it, or it is refused. */
void request_done(struct server_request *r);
/* nghttp2 has closed the stream, or the connection is going. */
void request_closed(struct server_request *r);
/* Gives nghttp2 the answer. */
void request_submit(struct server_request *r);
void request_refuse(struct server_request *r, int http_status);
/* Copies `length` bytes of the answer, which has that many left. */
void request_copy_answer(struct server_request *r, uint8_t *to, size_t length);
ssize_t request_read_answer(nghttp2_session *session, int32_t stream_id, uint8_t *buffer,
			    size_t length, uint32_t *flags, nghttp2_data_source *source,
			    void *context);

#endif
