/*
 * call.h - one request of the kernel's that has to go to the origin, from message to answer.
 *
 * A call is made by an operation, sent, repeated as the protocol allows, and handed back to the
 * operation's `work` function on a completion thread: exactly once, with `status` and the decoded
 * reply, or with a status that says why there is none. Nothing here blocks a FUSE thread.
 *
 * What is repeated (PROTOCOL.md 3): reads freely, under whatever session stands; modifying requests
 * with the same session, slot and sequence until they are answered, so that they are executed at
 * most once. A new session, or another origin process, changes nothing about that: the origin has
 * recorded what it did (3.5). NOSESSION says "never executed": they then go out again under the new
 * session. So do those of which nothing left this host (no connection could be made), and
 * UNKNOWNOUTCOME, when a request was sent once: the origin that answers is the only one that can
 * have got it. Else that ends with EIO: the record is lost, with the origin's machine mostly.
 *
 * With disconnected=fail, calls end with EIO as long as the origin is away (session_away).
 *
 * Bounds: every call has a deadline, at which the kernel is answered. A read ends with it. A
 * modification that may have been executed is settled in the background, without the caller: it
 * is superseded in its slot, so that it was executed before or never will be. A caller that was killed
 * is answered at once in the same way (EINTR). Interrupts by signals that have a handler are not
 * honoured: a local file system does not return EINTR there either.
 *
 * A call belongs to the operation from call_new() to call_send(), to this object until `work`, and
 * to `work` until call_destroy(). Messages borrow names and data from the call's own copies.
 */
#ifndef FS_MOUNT_CALL_H
#define FS_MOUNT_CALL_H

#include <uthash.h>

#include "fs/mount/inode.h"
#include "fs/mount/state.h"
#include "lease/status.h"

struct call;
typedef void call_work(struct mount *m, struct call *call);

enum call_state { CALL_NEW, CALL_PARKED, CALL_SENT, CALL_ANSWERED };

struct call {
	UT_hash_handle hh; /* by id */
	struct call *next; /* in the parked list, the completion queue or an inode's held list */
	uint64_t id;
	enum call_state state;

	/* Set by the operation. */
	fuse_req_t request;        /* NULL: nobody waits (any more) */
	uint64_t request_thread;   /* thread id of the caller */
	enum message_type operation; /* what it is; the message may become another (supersede) */
	struct message message;
	void *bulk;                /* bulk.h */
	void *bulk_memory;         /* owned: what it is in */
	size_t bulk_length;
	char names[2][NAME_BYTES_MAX + 1]; /* copies for the message */
	void *bytes;               /* owned: a link's target */
	bool modifying;
	bool durable;              /* it is, once it is answered: nothing of it is left to sync */
	struct open_file *direct;  /* whose write with O_DIRECT it is; while `request` is not answered */
	uint64_t lock_file;        /* of the descriptor, when it has locks: gone with them (locks.h) */
	uint64_t source_lock_file; /* the same of what copy_range reads */
	struct instant deadline;
	int deadline_errno;        /* ETIMEDOUT; EIO where others queue behind a kernel lock */
	bool ends_when_away;       /* ends as at its deadline when the origin is away (session_away),
	                              with the caller for `work` to answer */
	call_work *work;
	struct inode *inode;       /* the object, with a use */
	struct inode *inode2;      /* rename: the new directory; link: the new name's directory */
	struct inode *child;       /* what a name is known to lead to, if it is */
	struct inode *child2;
	struct fuse_file_info file_info;
	uint64_t offset;           /* of a read, readdir */
	size_t size;
	bool plus;
	unsigned retries;          /* the operation's own */
	unsigned modify_marks;     /* which of inode, inode2, child, child2 were marked as modifying */
	void *context;

	/* The answer, for `work`. */
	uint16_t status;
	uint64_t stamp;            /* of the attempt that was answered */
	struct message_reply reply; /* all zero unless the origin replied */
	bool replied;
	void *answer;              /* owned: the memory behind reply and data */
	struct slice data;         /* bulk data of the reply */

	/* Inside. */
	uint64_t bound;            /* ends with EIO when this write lease (inode->stored) does; 0: none */
	struct session_id session; /* of the latest attempt */
	bool has_slot;
	uint32_t slot;
	uint64_t sequence;
	unsigned tries;            /* since the operation sent it: how long to wait for the next */
	unsigned attempts;         /* that may have left this host, since it was last known that
	                              none of them was executed */
	struct instant retry_at;
	struct client_call *transfer;
	int error;                 /* of the transport */
	bool interrupted;
	bool abandoned;            /* the kernel was answered already */
	bool superseding;          /* the message only takes the slot of the abandoned one */
	uint64_t lease_instance;   /* page fills: held on the inode when this was sent */
	uint32_t settle_serial;    /* page fills: the inode's when this was sent */
	uint32_t write_serial;     /* fsync: the inode's when this was sent */
	bool held;                 /* parked until calls_release_held() or _closes() */
	uint64_t acknowledge_mark; /* close: acknowledgements that go before it (session.h) */
	struct call *fetch_next;   /* page fills: in inode->fetches */
	bool ahead;                /* of nobody's READ */
	struct prefetch_unit *unit; /* that it is for (prefetch.h); NULL, when ahead: it is in
	                               mount->ahead_count */
};

/* Until such a call is answered the kernel writes nothing back. */
static inline bool call_changes_size(const struct call *call)
{
	return call->message.type == MESSAGE_setattr &&
	       (call->message.setattr.valid & SETATTR_SIZE);
}

int calls_create(struct mount *m) MUST_CHECK;
/* Ends the threads. Every call was ended before (session_stop). */
void calls_stop(struct mount *m);
void calls_destroy(struct mount *m);

/* A call for `request` (may be NULL) of `type`. NULL: no memory, or CALL_COUNT_MAX in flight. */
struct call *call_new(struct mount *m, fuse_req_t request, enum message_type type);
/* The caller holds a kernel lock on which others queue: the shorter limit (design: bounds). */
void call_limit(struct call *call);
/* Copies a name into the call (which: 0 or 1) for the message. */
struct slice call_name(struct call *call, unsigned which, const char *name);
/* The object of the call; takes a use. */
void call_set_inode(struct mount *m, struct call *call, struct inode *inode);
/* Sends it; `work` follows on a completion thread. The call may be gone when this returns. */
void call_send(struct mount *m, struct call *call, call_work *work);
/* Sends an answered call again with its message as it is now. */
void call_again(struct mount *m, struct call *call, unsigned delay_ms);
void call_destroy(struct mount *m, struct call *call);
/* Hands the call to `work` with a status of our own, on a completion thread. Without the lock. */
void call_fail(struct mount *m, struct call *call, uint16_t status);

/* The caller's request, once: NULL afterwards and when it was answered already. */
fuse_req_t call_take_request(struct mount *m, struct call *call);
/* The errno that the kernel gets for the call's status. */
int call_errno(const struct call *call);

/* Who asks in the kernel. */
void call_credential(fuse_req_t request, struct credential *ret_credential);
/* True when the thread is gone or a signal that will end it is pending. */
bool call_caller_dies(uint64_t thread);

/* The session changed state: parked calls may go out now. Called under the lock. */
void calls_session_changed(struct mount *m);
/* What held calls about `inode` back may be over: those that need not wait go out. Under lock. */
void calls_release_held(struct mount *m, const struct inode *inode);
/* The write lease on `inode` was granted: what changes its size goes ahead of its recall, and ends with it:
   the end of a session waits for what was stored, which waits for that. Under the lock. */
void calls_bind(struct mount *m, const struct inode *inode);
/* The write lease on `inode` was given up: what was to change its size ahead of that takes its turn,
   as without one. Under the lock. */
void calls_unbind(struct mount *m, struct inode *inode);
/* Acknowledgements or claims were answered: closes that waited for them go out. Under the lock. */
void calls_release_closes(struct mount *m);
/* A slot was given out under `session`; these are how many the origin granted. Under the lock. */
void calls_slots_reset(struct mount *m, struct session_id session, uint32_t count);
/* A modification sent under an earlier session may have been executed, and its caller waits: until
   that is over, not everything that is open here is known. Under the lock. */
bool calls_unsettled(const struct mount *m);
/* Fails every call with `status`, and every later one. For the end of the mount. */
void calls_shut(struct mount *m, uint16_t status);
uint64_t calls_count(struct mount *m);

#endif
