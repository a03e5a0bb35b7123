/*
 * session_record.h - the durable record of the sessions that may hold leases (PROTOCOL.md 6.1).
 *
 * One small file in the state directory, replaced as a whole: magic, version, epoch, the longest
 * promise ever made, and (session, host) for each session that may still hold leases, those of an
 * earlier run included; who may still rely on seals; a checksum. It is on disk before a
 * session's first answer, so that the next run knows for whom to wait. Plain functions; the caller
 * serialises them.
 *
 * A record of the version before, which says nothing of seals, is read as it is: its sessions are known,
 * and of seals that somebody whom nobody knows may rely on them.
 */
#ifndef FS_ORIGIN_SESSION_RECORD_H
#define FS_ORIGIN_SESSION_RECORD_H

#include "lease/authority.h"

#define SESSION_RECORD_COUNT_MAX (1u << 20)

#define SESSION_RECORD_CHECK_BYTES 8 /* the checksum, at its end */

struct session_record {
	uint64_t epoch;
	uint64_t promise_ms; /* the longest term with drift and margin that any session was told */
	bool unknown;        /* there may be sessions that it does not name: grace waits for time */
	uint32_t count;
	struct authority_previous *entries; /* malloc()ed */
	/*
	 * PROTOCOL.md 11.4: who may go on to rely on seals. `renewed` 0: it had not ended. Instants are of
	 * the run of the machine that `boot` names; in any other they say nothing.
	 */
	uint8_t boot[16];
	struct instant silent_unknown;
	uint32_t silent_count;
	struct authority_silent *silent; /* malloc()ed */
};

/*
 * 0 with the record (all zero when there is none yet), -EUCLEAN when it is there and cannot be
 * trusted, -errno.
 */
int session_record_load(int state_fd, const char *name, struct session_record *ret_record)
	MUST_CHECK;
/* Durable when it returns 0. */
int session_record_store(int state_fd, const char *name, const struct session_record *record)
	MUST_CHECK;
/* What a file holds; 0, -EUCLEAN or -ENOMEM. session_record_load() is the reading and this. */
int session_record_decode(const void *data, size_t length, struct session_record *ret_record)
	MUST_CHECK;
/* The checksum of a file that begins with these bytes. */
uint64_t session_record_checksum(const void *data, size_t length);
void session_record_finish(struct session_record *record);

#endif
