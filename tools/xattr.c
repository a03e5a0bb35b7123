#include "tools/xattr.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#define NAME_BYTES_MAX 64
#define XATTR_STATUS "system.leasehold.status" /* fs/mount/xattr.c says why not user.* */
#define MOUNT_TYPE "fuse.leasehold"
/* The kernel's limit on one value (XATTR_SIZE_MAX). */
#define VALUE_BYTES_MAX 65536

static int get(const char *path, const char *full_name, char **ret_value)
{
	char *value = malloc(VALUE_BYTES_MAX + 1);
	ssize_t length;
	int r;

	if (!value)
		return -ENOMEM;
	length = getxattr(path, full_name, value, VALUE_BYTES_MAX);
	if (length < 0) {
		r = errno == ENOTSUP ? -ENODATA : -errno;
		free(value);
		return r;
	}
	value[length] = '\0';
	*ret_value = value;
	return 0;
}

int xattr_get(const char *path, const char *name, char **ret_value)
{
	char full_name[NAME_BYTES_MAX];

	snprintf(full_name, sizeof(full_name), XATTR_PREFIX "%s", name);
	return get(path, full_name, ret_value);
}

int xattr_get_status(const char *root, char **ret_json)
{
	return get(root, XATTR_STATUS, ret_json);
}

int xattr_is_leasehold(const char *path)
{
	char *version;
	int r = xattr_get(path, "version", &version);

	if (r < 0)
		return r;
	free(version);
	return 0;
}

/* An absolute path without ".", ".." and double slashes, by its text alone; NULL: no memory. */
static char *plain_path(const char *path)
{
	char *here = *path == '/' ? strdup("") : getcwd(NULL, 0), *plain;
	size_t length;

	if (!here)
		return NULL;
	plain = malloc(strlen(here) + strlen(path) + 3);
	if (!plain) {
		free(here);
		return NULL;
	}
	strcpy(plain, here);
	free(here);
	length = strlen(plain);
	while (*path) {
		size_t part = strcspn(path, "/");

		if (part == 2 && path[0] == '.' && path[1] == '.') {
			while (length > 0 && plain[--length] != '/')
				;
		} else if (part > 0 && !(part == 1 && path[0] == '.')) {
			if (length == 0 || plain[length - 1] != '/')
				plain[length++] = '/';
			memcpy(plain + length, path, part);
			length += part;
		}
		path += part + (path[part] == '/');
	}
	if (length == 0)
		plain[length++] = '/';
	plain[length] = '\0';
	return plain;
}

/* The table writes blanks and the like as \ooo. */
static void unescape(char *text)
{
	char *to = text;

	for (char *from = text; *from; to++) {
		unsigned code;

		if (*from == '\\' && sscanf(from + 1, "%3o", &code) == 1) {
			*to = (char)code;
			from += 4;
		} else {
			*to = *from++;
		}
	}
	*to = '\0';
}

static bool is_below(const char *path, const char *root)
{
	size_t length = strlen(root);

	return strcmp(root, "/") == 0 ||
	       (strncmp(path, root, length) == 0 && (path[length] == '/' || path[length] == '\0'));
}

/* The mount that `path` is on, by text: the longest that fits, and the last of equals. */
static int look_up(const char *path, char **ret_root)
{
	FILE *table = fopen("/proc/self/mountinfo", "re");
	char *line = NULL, *root = NULL;
	bool is_ours = false;
	size_t size = 0;

	if (!table)
		return -errno;
	while (getline(&line, &size, table) >= 0) {
		char *rest = line, *field = NULL, *type;

		for (int i = 0; i < 5; i++)
			field = strsep(&rest, " ");
		type = rest ? strstr(rest, " - ") : NULL;
		if (!field || !type)
			continue;
		unescape(field);
		if (!is_below(path, field) || (root && strlen(field) < strlen(root)))
			continue;
		free(root);
		root = strdup(field);
		is_ours = strncmp(type + 3, MOUNT_TYPE " ", strlen(MOUNT_TYPE " ")) == 0;
	}
	free(line);
	fclose(table);
	if (!root || !is_ours) {
		free(root);
		return -ENODATA;
	}
	*ret_root = root;
	return 0;
}

int xattr_mount_root(const char *path, char **ret_root)
{
	char *plain = plain_path(path);
	int r = plain ? look_up(plain, ret_root) : -ENOMEM;

	free(plain);
	if (r != -ENODATA)
		return r;
	/* By a symbolic link, perhaps. */
	plain = realpath(path, NULL);
	if (!plain)
		return -errno;
	r = look_up(plain, ret_root);
	free(plain);
	return r;
}
