// Starts Swagger UI on the page of templates/ninja/swagger.html; "Authorize" takes an API token.
SwaggerUIBundle({
  url: document.body.dataset.openapi,
  dom_id: "#swagger-ui",
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  docExpansion: "none", // Swagger UI draws whatever is open anew at every click: seconds, with some 130 operations
  filter: true,
  syntaxHighlight: { activate: false },
});

// Swagger UI has its own dark colours behind a class.
function follow() {
  document.documentElement.classList.toggle("dark-mode", document.documentElement.dataset.theme === "dark");
}
follow();
document.addEventListener("themechange", follow);
