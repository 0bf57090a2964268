// Starts Swagger UI: the policy of the page allows no script in the page itself.
const page = document.getElementById("swagger-ui");

// Without deepLinking: it puts a link into each operation's button, where keyboards and screen readers do not find it.
SwaggerUIBundle({
  domNode: page,
  url: page.dataset.document,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  persistAuthorization: true,
  validatorUrl: null,
});
