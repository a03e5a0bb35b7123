/*
 * watch.h - hears of changes that others make directly in the exported directories.
 *
 * fanotify reports, for the whole file system of an export, which inodes were modified, by their
 * file handles. What this process did itself is skipped (by its process id); of anything else the
 * change number is renewed and the leases are recalled. Prompt, not strict: who was answered
 * between the modification and the report was answered from before it.
 *
 * When reports were lost (the kernel's queue overflowed), or where fanotify cannot be had (kernel
 * before 5.1, a file system without file ids), the inodes that hosts hold leases on are looked at:
 * ctime and size tell. Modifications made while no origin ran are found in the same way, when a
 * host reclaims or asks. Stores through a mapping are reported by nobody (fanotify(7)); they are
 * found when their ctime has moved.
 *
 * It also says in the log when what is exported was unmounted or mounted over. Its file system stays in
 * use, so that no handle ever leads to another one.
 *
 * One thread of its own; it waits for nobody but the service's bound on such recalls.
 */
#ifndef FS_ORIGIN_WATCH_H
#define FS_ORIGIN_WATCH_H

#include "fs/origin/service.h"

struct watch;

/*
 * Begins to watch the exports; logs what cannot be watched. The stores and the service are
 * borrowed until watch_stop(). 0 or -errno.
 */
int watch_start(struct service *service, const struct service_export *exports,
		uint32_t export_count, struct watch **ret_watch) MUST_CHECK;
/* Before the service stops. NULL is fine. */
void watch_stop(struct watch *w);

#endif
