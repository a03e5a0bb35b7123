/*
 * client.h - a host's HTTP/2 client: one thread that runs libcurl's multi interface.
 *
 * Calls are asynchronous. `done` is called exactly once for every call that client_call() accepted
 * (also when it was cancelled or the client is being destroyed), on the client's thread: it must
 * not block; it may start and cancel calls. Control calls (sessions, keep-alives, recalls,
 * acknowledgements) have a connection of their own that bulk data never fills, and are marked as urgent:
 * server.h has a reserve for those.
 *
 * The client does not retry, and keeps libcurl from it: a request leaves this host at most once per
 * call. Who calls knows what is safe to repeat. It does not wait for a connection longer than the
 * call's timeout. TLS 1.3, ALPN h2, certificates as tls.h keeps them.
 */
#ifndef TRANSPORT_CLIENT_H
#define TRANSPORT_CLIENT_H

#include "lease/base/types.h"
#include "lease/message.h"

struct client;
struct client_call;
struct client_stream;

struct client_config {
	const char *url;          /* https://HOST:PORT, or http:// for cleartext on loopback */
	const char *tls_directory; /* of tls_join(); NULL with http:// */
	unsigned data_connections; /* 2 unless measured otherwise */
	struct duration connect_timeout;
	unsigned call_count_max;  /* in flight; beyond: -EAGAIN */
	bool lean; /* memory is limited: little is kept for the next calls */
};

int client_create(const struct client_config *config, struct client **ret_client, char *ret_text,
		  size_t text_size) MUST_CHECK;
/* Cancels all calls and streams (each `done` and `ended` is called), joins the thread. */
void client_destroy(struct client *c);

/* CLIENT_AHEAD: data that nobody waits for yet; on the wire it comes behind what is waited for. PLAIN: the
   answer is not to be compressed. */
enum client_channel { CLIENT_CONTROL, CLIENT_DATA, CLIENT_AHEAD, CLIENT_DATA_PLAIN, CLIENT_AHEAD_PLAIN };
#define CLIENT_CHANNELS 5u

struct client_answer {
	int error;            /* 0, or -errno of the transport: -ECANCELED, -ETIMEDOUT,
	                         -ECONNREFUSED, -ENETUNREACH, -EKEYREJECTED (certificate),
	                         -EPROTO, -ECONNRESET ... */
	bool unsent;          /* with an error: no part of the request can have left this host */
	int http_status;
	struct slice message; /* encoded; borrowed during `done` */
	struct slice bulk;    /* likewise */
	const char *text;     /* one line about `error` for a log, never NULL */
};
typedef void client_done(void *context, const struct client_answer *answer);

/*
 * Sends `message` with `bulk` (copied or kept by reference until done: the caller keeps `bulk`'s
 * memory alive until then) to `path` ("/v1/rpc"). Returns 0 and the call (valid until `done`
 * returns), -EAGAIN at call_count_max, -ENOMEM, -EMSGSIZE.
 * *ret_call may be NULL when the caller never cancels. Any thread.
 */
int client_call(struct client *c, enum client_channel channel, const char *path,
		const struct message *message, struct slice bulk, struct duration timeout,
		client_done *done, void *context, struct client_call **ret_call) MUST_CHECK;
/* Ends the transfer; `done` follows with -ECANCELED unless it came already. The caller guarantees
   that `done` has not returned yet (it holds its own lock around both). Any thread. */
void client_cancel(struct client_call *call);

/*
 * Opens a long-lived response stream on the control channel. `received` gets each message,
 * `ended` once at the end (error as in client_answer; 0: the origin ended it); both on the
 * client's thread. client_stream_close() makes `ended` come soon.
 */
int client_stream(struct client *c, const char *path, const struct message *message,
		  void (*received)(void *context, struct slice message),
		  void (*ended)(void *context, int error, int http_status, const char *text),
		  void *context, struct client_stream **ret_stream) MUST_CHECK;
void client_stream_close(struct client_stream *stream);

/* Drops all connections, so that the next call makes new ones (the network changed). */
void client_reconnect(struct client *c);

struct client_counters {
	uint64_t calls, bytes_in, bytes_out, connections, failures, cancelled, timeouts;
};
void client_counters(const struct client *c, struct client_counters *ret_counters);

#endif
