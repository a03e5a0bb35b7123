/*
 * mount.h - runs a mount: one export of one origin at one mount point, with a cache that others may share.
 *
 * The options are one table: the struct, `leasehold mount --help`, leasehold-mount(1) and the
 * parser of -o come from its rows, and a test compares them.
 */
#ifndef FS_MOUNT_MOUNT_H
#define FS_MOUNT_MOUNT_H

#include <stdbool.h>
#include <stdint.h>

#include "lease/base/types.h"

/*
 * O(KIND, field, "name", "METAVAR", default as text, "one line"). Every row is --NAME VALUE and
 * -o NAME=VALUE alike (flags without a value). BYTES on the command line are "10G", "512M".
 */
#define MOUNT_OPTIONS(O)                                                                        \
	O(TEXT, cache, "cache", "DIR", "/var/cache/leasehold", "directory on the local disk")   \
	O(BYTES, cache_size, "cache-size", "SIZE", "10G", "most bytes that the cache takes")    \
	O(COUNT, cache_files, "cache-files", "N", "1000000", "most inodes that the cache takes") \
	O(BYTES, cache_free, "cache-free", "SIZE", "100M",                                      \
	  "free space of its file system that the cache leaves to others")                      \
	O(TEXT, join, "join", "TOKEN", "", "join token, the first time")                        \
	O(TEXT, keys, "keys", "DIR", "/etc/leasehold", "where this host's certificates are kept") \
	O(TEXT, host_name, "host-name", "NAME", "", "this host's name at the origin")           \
	O(MILLISECONDS, timeout, "timeout", "TIME", "300s",                                     \
	  "how long a call waits for the origin before it fails with ETIMEDOUT")                \
	O(TEXT, disconnected, "disconnected", "wait|fail|stale", "wait",                        \
	  "what a call does while the origin is away")                                          \
	O(TEXT, policy, "policy", "FILE", "", "a policy of this mount's, above those of the export") \
	O(BYTES, read_ahead, "read-ahead", "SIZE", "16M", "most fetched ahead of a sequential reader") \
	O(BYTES, memory, "memory", "SIZE", "0", "most memory of the daemon; 0: no limit")        \
	O(BYTES, open_fetch, "open-fetch", "SIZE", "128K",                                      \
	  "what is not larger is fetched when it is opened to be read")                         \
	O(TEXT, passthrough, "passthrough", "sealed|off", "sealed",                             \
	  "which cached files the kernel reads by itself")                                      \
	O(TEXT, prefetch, "prefetch", "on|off", "on",                                           \
	  "what will probably be read next is fetched before it is asked for")                  \
	O(TEXT, threads, "threads", "N", "auto",                                                \
	  "threads that serve the kernel; auto: as many as processors, from 2 to 4")            \
	O(FLAG, kernel_names, "kernel-names", "", "",                                           \
	  "names stay in the kernel: no mounts and no overlays on this mount")                  \
	O(FLAG, small, "small", "", "",                                                         \
	  "for trees of small files that are only read: opens are not told (see the page)")     \
	O(FLAG, read_only, "ro", "", "", "refuse every change")                                 \
	O(FLAG, no_suid, "nosuid", "", "", "set-user-ID bits have no effect")                   \
	O(FLAG, no_dev, "nodev", "", "", "device nodes cannot be opened")                       \
	O(FLAG, no_exec, "noexec", "", "", "programs cannot be run")                            \
	O(FLAG, sync, "sync", "", "", "what is written is durable when it is answered")         \
	O(FLAG, foreground, "foreground", "", "", "stay in front (-f)")                         \
	O(TEXT, log, "log", "FILE", "", "log here instead of standard error")

struct mount_options {
#define TEXT_FIELD(field) const char *field;
#define COUNT_FIELD(field) uint32_t field;
#define BYTES_FIELD(field) uint64_t field;
#define MILLISECONDS_FIELD(field) uint64_t field;
#define FLAG_FIELD(field) bool field;
#define OPTION_FIELD(KIND, field, flag, metavar, fallback, text) KIND##_FIELD(field)
	MOUNT_OPTIONS(OPTION_FIELD)
	const char *url;        /* https://HOST:PORT/EXPORT; http:// only for loopback */
	const char *mountpoint;
	const char *policy_text; /* what is in `policy`; mount_run() reads it */
};

/*
 * With a cache directory that another process has, that one serves the mount (handover.h): this one
 * mounts, and returns when the mount answers or, with `foreground`, when it has ended. Else it
 * mounts, daemonises once the mount answers (unless `foreground`), and returns when the file
 * system is unmounted, or SIGTERM or SIGINT unmounted it, and each mount that others asked for has
 * ended as well: 0 in the parent and at the end. -errno after one line to standard error that says
 * what and what next; then nothing is mounted.
 */
int mount_run(const struct mount_options *options) MUST_CHECK;

#endif
