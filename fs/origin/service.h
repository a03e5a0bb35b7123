/*
 * service.h - answers the requests of hosts: the server above, stores and the authority below.
 *
 * service_handle() is the server's handler: session messages, which must never wait, are worked in
 * on the server's thread; all else goes to a pool of workers through a bounded queue (full:
 * PUSHBACK). A modification that waits for recalls is a struct in the authority's hands and
 * occupies no worker; when its turn comes it is queued again, ahead of new requests.
 *
 * Lock order: inode locks of a store, then the authority's mutex, then leaves (queue, inodes,
 * changes, the server's own). The authority's mutex is held across no system call that can wait.
 */
#ifndef FS_ORIGIN_SERVICE_H
#define FS_ORIGIN_SERVICE_H

#include "fs/origin/session_record.h"
#include "fs/origin/slots.h"
#include "fs/origin/store.h"
#include "transport/server.h"

struct service;
struct stat;

struct service_export {
	struct store *store; /* borrowed */
	const char *hosts;   /* names separated by ':', or NULL: every host that joined */
};

struct service_config {
	struct authority_config authority; /* epoch and seed are filled in by the service */
	struct changes *changes;
	struct slots *slots; /* with an intent for each worker */
	const struct service_export *exports; /* copied */
	uint32_t export_count;
	unsigned worker_count;
	int state_fd;              /* for the record of sessions; borrowed */
	const char *tls_directory; /* to sign joining hosts with; NULL: none join */
};

/* 0 or -errno with one line for the user. */
int service_create(const struct service_config *config, struct service **ret_service,
		   char *ret_text, size_t text_size) MUST_CHECK;
/* The server's handler; `context` is the service. */
void service_handle(void *context, struct server_request *request);

/* ---- changes made behind the origin's back ---- */

/*
 * Somebody else modified an inode of the store: its change is renewed and its leases are recalled.
 * False: too many such recalls are under way; call again.
 */
bool service_changed(struct service *s, struct store *store, const struct identity *identity)
	MUST_CHECK;
/* As authority_leased(). */
uint32_t service_leased(struct service *s, size_t *cursor, struct handle *ret_handles,
			uint32_t max);
/*
 * Compares the inode with what its last number was given for. 1: it was modified, and its leases are
 * recalled; 0: it was not. -EAGAIN: it was, but too many such recalls are under way: call it once more
 * with `again`, since a look alone finds nothing any more.
 */
int service_look(struct service *s, const struct handle *handle, bool again) MUST_CHECK;

/* ---- seals by policy ---- */

struct sealer;
/* Whom to tell of policies that root sets; before requests come in. */
void service_set_sealer(struct service *s, struct sealer *sealer);
/*
 * Has the file sealed with the usual term if it is not sealed, and is still quiet when everybody has given
 * up his leases on it; no answer says so. 0; -EAGAIN: too many are under way; -ENOMEM.
 */
int service_seal_quiet(struct service *s, struct store *store, const struct handle *handle,
		       uint64_t quiet_ms) MUST_CHECK;
/* Neither modified nor changed in any other way for so long. `now_ns`: CLOCK_REALTIME. */
bool service_is_quiet(const struct stat *st, int64_t now_ns, uint64_t quiet_ms);

void service_log(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* For GET /status; the server may be NULL. */
void service_set_server(struct service *s, struct server *server);
/* Left of the grace that this run started with. */
struct duration service_grace(struct service *s);
/* Answers modifications that wait for recalls with DRAINING, since acknowledgements no longer come
   in once the server drains. Call it before server_drain(). */
void service_drain(struct service *s);
/*
 * Answers what is still waiting with DRAINING and stops the threads. No request comes in any more
 * (server_drain() was called), but the server still exists.
 */
void service_stop(struct service *s);
void service_destroy(struct service *s);

#endif
