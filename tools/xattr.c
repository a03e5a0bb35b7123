#include "tools/xattr.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#define NAME_BYTES_MAX 64
/* The kernel's limit on one value (XATTR_SIZE_MAX). */
#define VALUE_BYTES_MAX 65536

int xattr_get(const char *path, const char *name, char **ret_value)
{
	char full_name[NAME_BYTES_MAX];
	char *value = malloc(VALUE_BYTES_MAX + 1);
	ssize_t length;
	int r;

	if (!value)
		return -ENOMEM;
	snprintf(full_name, sizeof(full_name), XATTR_PREFIX "%s", name);
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

int xattr_is_leasehold(const char *path)
{
	char *version;
	int r = xattr_get(path, "version", &version);

	if (r < 0)
		return r;
	free(version);
	return 0;
}

int xattr_mount_root(const char *path, char **ret_root)
{
	char *root = realpath(path, NULL);
	struct stat here, above;

	if (!root)
		return -errno;
	if (stat(root, &here) < 0) {
		int r = -errno;

		free(root);
		return r;
	}
	while (root[1] != '\0') {
		char *slash = strrchr(root, '/');
		char *end = slash == root ? slash + 1 : slash; /* "/" keeps its slash */
		char cut = *end;

		*end = '\0';
		if (stat(root, &above) < 0 || above.st_dev != here.st_dev) {
			*end = cut;
			break;
		}
	}
	*ret_root = root;
	return 0;
}
