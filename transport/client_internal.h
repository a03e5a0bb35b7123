/*
 * client_internal.h - what the client's own files share: client, lane, call.
 *
 * client.c takes calls from any thread and runs the client's thread; client_lane.c is what that
 * thread does with libcurl. A call belongs to who submits it until call_submit(), then to the
 * client's thread, until call_put() gives it back to the pool. The client's lock guards its queues
 * alone and is held while nothing is called.
 */
#ifndef TRANSPORT_CLIENT_INTERNAL_H
#define TRANSPORT_CLIENT_INTERNAL_H

#include <curl/curl.h>
#include <pthread.h>
#include <stdatomic.h>

#include "transport/client.h"
#include "transport/frame.h"

#define LANES_MAX	      17u  /* the control lane, and at most 16 data connections */
#define LANE_ACTIVE_MAX	      100u /* on one connection; an event costs libcurl a look at each */
/* Requests with so many bytes and more of data leave a connection one after the other: side by side they
   would all be complete at once, and then nothing is on its way. */
#define UPLOAD_BYTES_MIN      (64u << 10)
#define UPLOADS_MAX	      1u
#define CLEAR_CONNECTIONS     8u   /* of a lane without TLS, which has one for each call */
#define HEAD_INLINE_BYTES     640u /* a request with one name fits */
#define PATH_BYTES_MAX	      128u
#define WAITING_TICK_MS	      20 /* how late the deadline of a call without a stream may be seen */
#define RECEIVE_BYTES	      (256L << 10)
#define SEND_BYTES	      (256L << 10)
#define SOCKETS_MAX	      64u /* of a lane, that we look at again: lane_settle() */
#define SETTLE_ROUNDS_MAX     64u
#define SETTLE_MS_MIN	      1	  /* after a socket was ready */
#define SETTLE_MS_MAX	      512 /* doubled each time that nothing moved; then not again */
#define NUDGE_TIMEOUT_MS      5000L
/* Bytes that a peer does not acknowledge for so long mean that it is gone. */
#define UNACKNOWLEDGED_MS_MAX 10000
#define KEEPALIVE_IDLE_S      10L
#define KEEPALIVE_INTERVAL_S  5L

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
	uint8_t *head;			/* head_inline or memory of its own */
	size_t head_length;
	struct slice bulk;
	size_t sent;
	bool uploads; /* it is in lane->uploads */

	bool offered;  /* to a connection: from here on some of it may have left */
	bool repeated; /* libcurl wanted to send it once more */
	bool begun;    /* the answer's headers are here */
	bool is_message;
	bool compressed;      /* its content-encoding says so */
	bool bad_encoding;    /* or says something else */
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

/* A socket of libcurl's: client_wire.h. */
struct lane_socket {
	curl_socket_t fd;
	bool opened;	 /* it is a connection's: its end will be told */
	bool wants;	 /* libcurl wants to be told of it */
	uint32_t wanted; /* of which events, then */
	bool watched;	 /* epoll has it */
	uint32_t events;
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
	unsigned uploads;     /* of the active: those with much of the request left to hand over */
	unsigned begun_count; /* of the active: answers that have begun and are not complete */
	struct lane_socket sockets[SOCKETS_MAX];
	unsigned socket_count;
	struct wire *wires; /* of its TLS connections */
	uint64_t progress;     /* grows with every byte and every end of a call */
	struct instant settle; /* when to look again, UINT64_MAX: not */
	uint64_t settle_ms;
	CURL *nudge; /* NULL until there was a reset to be sent */
	bool nudge_wanted;
	bool nudging;
	struct instant timer; /* when libcurl wants to be called; UINT64_MAX: not */
	int alert;	      /* the fatal TLS alert that the origin sent, or 0 */
};

struct client {
	char *url;
	bool tls;
	char *certificate;
	char *key;
	char *authority;
	long connect_timeout_ms;
	unsigned call_count_max;
	struct curl_slist *headers[CLIENT_CHANNELS];

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
	bool lean;
	unsigned kept_count; /* of those in the pool that kept the memory of their answer */
	unsigned call_count;
	bool signalled;
	bool stopping;
	bool reconnecting;

	struct {
		_Atomic uint64_t calls, bytes_in, bytes_out, connections, failures, cancelled,
			timeouts;
	} counters;
};

static inline void list_add(struct call_list *list, struct client_call *call)
{
	call->next = NULL;
	call->previous = list->last;
	if (list->last)
		list->last->next = call;
	else
		list->first = call;
	list->last = call;
}

static inline void list_remove(struct call_list *list, struct client_call *call)
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

/* ---- client.c ---- */

struct instant client_now(void);
/* Back to the pool. Nobody may use `call` afterwards: a cancel that still waits is forgotten. */
void call_put(struct client_call *call);

/* ---- client_lane.c: the client's thread only, but for call_set_options() ---- */

/* OpenSSL's index for the lane of a context; -1: none to be had. Once in a process. */
int lane_library_init(void) MUST_CHECK;
/* The options of an easy handle that every use of it shares. */
void call_set_options(struct client_call *call);
int lane_open(struct lane *lane) MUST_CHECK;
void lane_close(struct lane *lane);
/* The end of every call that was submitted. It is in no list and not with libcurl. */
void call_finish(struct client_call *call, int error);
/* Ends the call wherever it is. */
void call_abort(struct client_call *call, int error);
void lane_end_all(struct lane *lane, int error);
/* New connections: what is under way on the old ones is lost. */
void lane_reconnect(struct lane *lane);
/* One of its sockets is ready. */
void lane_socket_ready(struct lane *lane, curl_socket_t fd, uint32_t events);
/* Everything else that is due: starts calls, runs libcurl's timers, ends what has ended. */
void lane_run(struct lane *lane);
/* When lane_run() is to be called at the latest; UINT64_MAX: only for a reason. */
struct instant lane_due(const struct lane *lane, struct instant now);

#endif
