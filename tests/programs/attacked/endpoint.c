/* A program in C as `enclave-simulator attack` runs it, through the agent's local endpoint:
 *
 *     cc -o endpoint endpoint.c
 *     enclave-simulator attack -- enclave-agent serve -- ./endpoint
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static const char *needed(const char *name)
{
    const char *value = getenv(name);

    if (value == NULL) {
        fprintf(stderr, "no %s\n", name);
        exit(2);
    }
    return value;
}

/* Sends one Decrypt; returns the length of the response, 0 on an error. */
static size_t decrypt(const char *ciphertext, char *response, size_t size)
{
    static char body[8192], request[10240];
    struct sockaddr_in address = {.sin_family = AF_INET};
    struct timeval patience = {.tv_sec = 60};
    size_t length = 0;
    ssize_t count;
    unsigned port;
    int s;

    if (sscanf(needed("AWS_ENDPOINT_URL_KMS"), "http://127.0.0.1:%u", &port) != 1)
        return 0;
    snprintf(body, sizeof body,
             "{\"CiphertextBlob\": \"%s\", \"KeyId\": \"%s\", \"EncryptionContext\": %s}",
             ciphertext, needed("ATTACK_KEY_ID"), needed("ATTACK_CONTEXT"));
    snprintf(request, sizeof request,
             "POST / HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nConnection: close\r\n"
             "Content-Type: application/x-amz-json-1.1\r\n"
             "X-Amz-Target: TrentService.Decrypt\r\nContent-Length: %zu\r\n\r\n%s",
             port, strlen(body), body);
    address.sin_port = htons((unsigned short)port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    s = socket(AF_INET, SOCK_STREAM, 0);
    if (s < 0)
        return 0;
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(s, (struct sockaddr *)&address, sizeof address) == 0 &&
        write(s, request, strlen(request)) == (ssize_t)strlen(request)) {
        while (length < size - 1 && (count = read(s, response + length, size - 1 - length)) > 0)
            length += (size_t)count;
    }
    close(s);
    response[length] = 0;
    return length;
}

int main(void)
{
    static const char member[] = "\"Plaintext\":";
    static char response[65536];
    char *ciphertexts = strdup(needed("ATTACK_CIPHERTEXTS")), *each, *found, *end;

    for (each = strtok(ciphertexts, " "); each != NULL; each = strtok(NULL, " ")) {
        if (decrypt(each, response, sizeof response) > 0 &&
            strncmp(response, "HTTP/1.1 200 ", 13) == 0 &&
            (found = strstr(response, member)) != NULL &&
            (found = strchr(found + sizeof member - 1, '"')) != NULL &&
            (end = strchr(found + 1, '"')) != NULL) {
            *end = 0;
            printf("ATTACK-RESULT base64:%s\n", found + 1);
        } else {
            printf("ATTACK-RESULT refused\n");
        }
    }
    free(ciphertexts);
    return 0;
}
