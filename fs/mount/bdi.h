/*
 * bdi.h - what the kernel lets root set of a mount's pages: /sys/class/bdi/MAJOR:MINOR.
 */
#ifndef FS_MOUNT_BDI_H
#define FS_MOUNT_BDI_H

#include <sys/types.h>

#include "lease/base/types.h"

/* Most that the kernel reads ahead, or around a page fault: one request. It begins with 128 KiB. */
#define BDI_READ_AHEAD_KIB 1024

/* Sets `attribute` ("read_ahead_kb", "max_bytes") of the mount of `device`. 0 or -errno. */
int bdi_set(dev_t device, const char *attribute, unsigned value) MUST_CHECK;

#endif
