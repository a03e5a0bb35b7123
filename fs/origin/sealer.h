/*
 * sealer.h - seals files that were quiet for as long as a policy says (leasehold-policy(5), seal=after:).
 *
 * One thread walks what is below each directory with a policy that sets `seal`, and has the service seal
 * what matched, is quiet, and is not sealed (service.h). The directories it learns of when their policy is
 * set through the origin (by root: store_setxattr()), and keeps in the state directory, so that it goes on
 * after a restart; a policy that somebody set in the exported directory itself it does not know.
 *
 * What a walk costs is bounded: it rests ten times as long as the last one took, and looks again after the
 * shortest time that a policy names, but not more often than every second and not later than after
 * SEALER_REST_MAX.
 */
#ifndef FS_ORIGIN_SEALER_H
#define FS_ORIGIN_SEALER_H

#include "fs/origin/service.h"

#define SEALER_DIRECTORIES_MAX 1024u /* of which it is known that they have such a policy */
#define SEALER_REST_MAX ((struct duration){ 600 * NS_PER_S })
#define SEALER_DEPTH_MAX 250u	     /* of directories, from the export's root */

struct sealer;

/* Reads the list, begins; before the service gets requests. 0 or -errno. `state_fd` is borrowed. */
int sealer_start(struct service *service, int state_fd, struct sealer **ret_sealer) MUST_CHECK;
/* When the service is stopped, and before it is destroyed. NULL is fine. */
void sealer_stop(struct sealer *sealer);
/*
 * Root sets the policy of the directory: `is_set`: `text` is it now, else it is about to be. If it sets
 * `seal` that is durably noted. Any thread.
 */
void sealer_hear(struct sealer *sealer, const struct handle *directory, struct slice text, bool is_set);

#endif
