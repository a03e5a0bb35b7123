/*
 * server.h - the origin's HTTP/2 server: nghttp2 sessions over OpenSSL, pumped by event loops.
 *
 * Each connection belongs to one event loop (a thread with epoll). A complete request is handed to
 * `handler` on its loop's thread, which must not block: it queues the request and answers later,
 * from any thread, with server_respond() - exactly once for every request, also when the peer is
 * gone (then the answer is thrown away).
 *
 * Body of a message request (POST): u32 length, message, bulk data to the end. The same in
 * responses. Other requests (GET) get a plain body. Bounds: see struct server_config; a request
 * beyond them is answered 413, 429 or by closing the connection, counted, and never buffered.
 *
 * A response to a message with `accept-encoding: zstd` may be compressed (RFC 9110 8.4): where the link is
 * slower than a core compresses, and it gets smaller (squeeze.h).
 *
 * Requests with the header `priority: u=0` (RFC 9218) and a body of a message at most have a reserve
 * of their own, 4,096 in all and 64 of a connection, so that no number of others keeps out what these
 * may be waiting for. Beyond the reserve they are requests like others. What the handler finds to be no
 * message that the reserve is for it puts among the others, with server_request_ordinary().
 */
#ifndef TRANSPORT_SERVER_H
#define TRANSPORT_SERVER_H

#include <openssl/ssl.h>

#include "lease/base/types.h"
#include "lease/message.h"

struct server;
struct server_request;
struct server_stream;

typedef void server_handler(void *context, struct server_request *request);

struct server_config {
	const char *address;     /* "ADDR:PORT", "[ADDR6]:PORT"; port 0: any free one */
	SSL_CTX *tls;            /* shared; NULL: h2 without TLS, prior knowledge, loopback only */
	unsigned loop_count;     /* threads */
	unsigned connection_count_max;
	unsigned request_count_max; /* unanswered, over all connections, but for the reserve;
	                               streams count, too; beyond: 429 */
	server_handler *handler;
	void *context;
};

/* Listens and starts the loops. 0, or -errno with *ret_text one line for the user. */
int server_create(const struct server_config *config, struct server **ret_server,
		  char *ret_text, size_t text_size) MUST_CHECK;
/* The port that it listens on. */
uint16_t server_port(const struct server *s);
/* Stops listening, refuses new requests (503 with DRAINING), and waits until those under way are
   answered and written, at most `timeout`. Streams end. Then server_destroy(). */
void server_drain(struct server *s, struct duration timeout);
void server_destroy(struct server *s);

/* What a request is. All borrowed until server_respond() or server_stream_start(). */
struct server_request_view {
	const char *method; /* "GET", "POST" */
	const char *path;   /* decoded? no: as it came, with query */
	const char *range;  /* the Range header, or NULL */
	const char *peer;   /* name in the client's certificate; "" without TLS; NULL: none */
	struct slice body;
	/* POST with content-type application/x-leasehold whose body begins with a length: */
	struct slice message; /* empty: malformed or none */
	struct slice bulk;
	struct instant arrived;
};
void server_request_view(const struct server_request *request,
			 struct server_request_view *ret_view);
/* The peer reset the stream or is gone: work for it can stop. Any thread. */
bool server_request_cancelled(const struct server_request *request);
/* It takes no room of the reserve any more. False: the others are at their bound, and it is to be
   refused with PUSHBACK. In the handler only, on the loop's thread; of any request. */
bool server_request_ordinary(struct server_request *request) MUST_CHECK;

/* A piece of memory and how to give it back; `data` may be NULL with length 0. */
struct server_bulk {
	void *data;
	size_t length;
	void (*release)(void *context, void *data);
	void *context;
};

/* Answers of one group compress alike, or do not; 0: of none. Before it is answered; any thread. */
void server_request_set_group(struct server_request *request, uint64_t group);
/* Answers with `reply` and bulk data, whose ownership moves. The HTTP status is that of the
   message's status (status_http). Frees the request. Any thread; does not block. */
void server_respond(struct server_request *request, const struct message *reply,
		    struct server_bulk bulk);
/* Answers with a plain body. `header` is NULL or one extra "name: value" (lower case). */
void server_respond_plain(struct server_request *request, int http_status,
			  const char *content_type, const char *header, struct server_bulk body);

/*
 * Turns the request into a long-lived stream of messages (200, then u32 length and message each).
 * Frees the request. `ended` is called once on the loop's thread when the peer or the connection
 * is gone, or after server_stream_end(); afterwards the stream may still be used, without effect,
 * until server_stream_unref(). NULL when memory is out: then the request was answered with 503.
 * When the server was destroyed meanwhile, `ended` is called before this returns.
 */
typedef void server_ended(void *context, struct server_stream *stream);
struct server_stream *server_stream_start(struct server_request *request, server_ended *ended,
					  void *context) MUST_CHECK;
/* 0, -EPIPE when it has ended, -ENOBUFS when `backlog_bytes_max` (1 MiB) is waiting already: then
   the stream is ended, since the protocol has no holes. Any thread. */
int server_stream_send(struct server_stream *stream, const struct message *message) MUST_CHECK;
void server_stream_end(struct server_stream *stream);
void server_stream_unref(struct server_stream *stream);

struct server_counters {
	uint64_t connections, requests, responses, bytes_in, bytes_out, refused, cancelled, streams,
		malformed, tls_failures, compressed_in, compressed_out;
};
void server_counters(const struct server *s, struct server_counters *ret_counters);

#endif
