/*
 * credentials.h - acting on the store as the caller on a host, per thread.
 *
 * The store's own permission checks and the owners of what is made follow the file system ids of
 * the thread. They are switched lazily: a thread stays who it was until an operation needs someone
 * else, so a stream of requests by one user costs no system calls. While the thread's fsuid is not
 * 0 the kernel takes its file capabilities away (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_CHOWN,
 * CAP_FOWNER, CAP_FSETID, CAP_MKNOD); others such as CAP_SYS_ADMIN stay, so what they would allow
 * (trusted.* attributes) is refused by the store itself. CAP_SYS_RESOURCE goes by hand, since it would
 * let everyone pass quotas and take the blocks that are reserved for root. State is thread-local.
 */
#ifndef FS_ORIGIN_CREDENTIALS_H
#define FS_ORIGIN_CREDENTIALS_H

#include "lease/message.h"

#define NOBODY_ID 65534u

/* 0, or -EPERM when this process may not change its file system ids and open by handle. */
int credentials_probe(int directory_fd) MUST_CHECK;
/* uid 0 and gid 0 become nobody. */
void credentials_squash(struct credential *credential);
/* From here on this thread acts as `credential`. 0; -EINVAL for ids that are none; -errno. */
int credentials_assume(const struct credential *credential) MUST_CHECK;
/*
 * As root without groups, and with no umask: before anything of the origin's own (the state directory,
 * orphans, syncs). A worker does not do it when it is done with a request, so whoever comes next does.
 */
void credentials_reset(void);
/* The umask of what this thread makes from here on; other threads have their own. 0 or -errno. */
int credentials_umask(uint32_t umask) MUST_CHECK;
/* The origin's own rights for a moment within an operation. Returns what to give to _drop(). */
bool credentials_lift(void);
void credentials_drop(bool lifted);

#endif
